"""Signals that ask a command to end: noted at once, obeyed where nothing is lost by it.

SIGTERM and SIGUSR1 end a command at once, with status PREEMPTED, until `defer`. From there on they are noted, as is
SIGINT, and the run asks at every step boundary whether any rank was signalled. A thread reads the signals: the main
one may sit in a collective for long. Nothing heavy is imported here, for handlers have to be there before torch is.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from altpo_ds.config.errors import INTERRUPTED, PREEMPTED

if TYPE_CHECKING:
    from altpo_ds.engine.distributed import World

STATUS = {signal.SIGTERM: PREEMPTED, signal.SIGUSR1: PREEMPTED, signal.SIGINT: INTERRUPTED}
SAME = 1.0  # seconds in which a second SIGINT is the same: Ctrl-C reaches a rank directly and through its launcher


class Abandoned(Exception):  # noqa: N818, it is no error
    """Raised on all ranks together where work that can be done again is given up."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Signals:
    """What this process was asked for, and how it takes it."""

    def __init__(self) -> None:
        self.watched = self.deferred = self.abandonable = False
        self.status = 0
        self.interrupted: float | None = None  # when the first SIGINT came

    def take(self, number: int) -> None:
        status, now = STATUS.get(signal.Signals(number), 0), time.monotonic()
        if not self.deferred:
            if status == PREEMPTED:  # Python turns SIGINT into a KeyboardInterrupt by itself
                _leave("preempted: start the same command again to continue", status)
            return
        if number == signal.SIGINT:
            if self.interrupted is not None and now - self.interrupted > SAME:
                _leave("stopped at once: start the same command again to continue from the last checkpoint", status)
            self.interrupted = self.interrupted or now
            if not self.status:
                _say("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
        self.status = max(self.status, status)


_signals = _Signals()


def watch() -> None:
    """Takes SIGTERM and SIGUSR1 over. Called once, in the main thread, before the heavy imports."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _noted)
    threading.Thread(target=_listen, args=(reader,), name="signals", daemon=True).start()
    _signals.watched = True


def defer() -> None:
    """From here on signals are noted only, SIGINT too. All ranks call it right after a collective operation."""
    if _signals.watched:
        _signals.deferred = True
        signal.signal(signal.SIGINT, _noted)


def asked() -> int:
    """The exit status that this process was asked to leave with since `defer`; 0: none."""
    return _signals.status


def agreed(world: "World") -> int:
    """The exit status that any rank was asked to leave with; 0: none. All ranks call it together."""
    import torch
    import torch.distributed as dist

    status = torch.tensor(asked(), device=world.device)
    dist.all_reduce(status, dist.ReduceOp.MAX)
    return int(status)


@contextlib.contextmanager
def abandonable() -> Iterator[None]:
    """Marks work that may be given up: `pulse` raises Abandoned in it. All ranks enter it together."""
    _signals.abandonable = True
    try:
        yield
    finally:
        _signals.abandonable = False


def pulse(world: "World") -> None:
    """Called by all ranks between two parts of long work."""
    if _signals.abandonable and (status := agreed(world)):
        raise Abandoned(status)


def _noted(*_: object) -> None:
    """Python writes the number of a signal that has a handler to the wake-up file, and the thread does the rest."""


def _listen(reader: int) -> None:
    while number := os.read(reader, 1):
        _signals.take(number[0])


def _leave(message: str, status: int) -> None:
    _say(message)
    sys.stdout.flush()
    os._exit(status)


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"altpo-ds: {message}", file=sys.stderr, flush=True)
