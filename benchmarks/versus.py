"""Times our training step and a peer's on the same rows, in turns, and prints one JSON line with the ratios.

    python benchmarks/versus.py --peer 'PEER/bin/python peer_step.py --model DIR ...' [--turns 2] [--allocator ours] \
        [--deepspeed zero0 zero3_cpu] -- --model DIR --forget FILE --retain FILE

What follows `--` goes to benchmarks/step.py. The peer's last line is JSON with `step_s`, the seconds of each step; on
both sides the first two steps warm up. `--allocator` says who gets tcmalloc, if it is installed: ours, as by our
launchers; both; or neither.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_UP = 2  # of the peer's steps; benchmarks/step.py leaves out its own


def tcmalloc() -> str | None:
    """The library's path, found as the launchers find it."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    return next((line.split()[-1] for line in listing.splitlines() if "libtcmalloc_minimal.so" in line), None)


def run(command: list[str], preload: str | None) -> dict[str, Any]:
    """The JSON of a command's last line of output."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"LD_PRELOAD": preload} if preload else {}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="command line")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--allocator", choices=["ours", "both", "neither"], default="ours")
    parser.add_argument("--deepspeed", nargs="+", default=["zero0", "zero3_cpu"])
    parser.add_argument("step", nargs="+", help="arguments of benchmarks/step.py, after --")
    options = parser.parse_args()
    found = tcmalloc()
    if found is None and options.allocator != "neither":
        raise SystemExit("tcmalloc is not installed: apt-get install libtcmalloc-minimal4, or --allocator neither")
    step = [sys.executable, str(ROOT / "benchmarks" / "step.py"), *options.step, "--deepspeed"]
    peers: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in options.deepspeed}
    name = ""
    for _ in range(options.turns):
        peer = run(shlex.split(options.peer), found if options.allocator == "both" else None)
        name = peer["peer"]
        peers.append(statistics.median(peer["step_s"][WARM_UP:]))
        for deepspeed, seconds in ours.items():
            seconds.append(run([*step, deepspeed], None if options.allocator == "neither" else found)["step_s"])
    ratios = {key: round(statistics.median(peers) / statistics.median(seconds), 2) for key, seconds in ours.items()}
    print(json.dumps({"peer": name, "allocator": options.allocator, "peer_s": peers, "ours_s": ours, "ratio": ratios}))


if __name__ == "__main__":
    main()
