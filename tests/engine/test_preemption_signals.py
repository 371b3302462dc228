"""How a process takes signals while it defers them; no torch in it."""

import signal
import subprocess
import sys
import time

from altpo_ds.config.errors import INTERRUPTED
from altpo_ds.engine.preemption import SAME

CODE = """
import sys, time
from altpo_ds.engine import preemption
preemption.watch()
preemption.defer()
assert "torch" not in sys.modules
print("ready", flush=True)
time.sleep(60)
"""


def test_only_a_second_ctrl_c_that_is_no_echo_of_the_first_stops_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.05)
        time.sleep(SAME)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == INTERRUPTED
        assert process.stderr is not None
        assert "stopped at once" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
