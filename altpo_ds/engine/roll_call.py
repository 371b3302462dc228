"""Which rank a broken or overdue collective waited for.

Gloo and NCCL do not tell. So the rank that notices calls the roll through the store of the process group: a thread of
every rank answers for as long as the process lives, whatever its main thread waits for.
"""

import contextlib
import re
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

CALL = "altpo/roll call"  # key in the store; answers lie beneath it
PATIENCE = 2.0  # seconds in which a living rank answers
LONG = timedelta(days=20)  # milliseconds have to fit into an int
BROKEN = re.compile(r"gloo|connection (closed|reset|refused)|timed out|broken pipe|nccl", re.IGNORECASE)


class RollCall:
    """This rank's part: it answers, and it can call."""

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.step = 0  # the optimizer step under way, 0 before the first
        # A client that waits holds its connection: caller and answerer have one each.
        self._store, waiting = (_store() for _ in range(2))
        threading.Thread(target=self._answer, args=(waiting,), name="roll call", daemon=True).start()

    def explain(self) -> None:
        """Prints which ranks are lost; the lowest of the living ones speaks."""
        lost, silent = self._lost()
        if self.rank != min({*range(self.size)} - {*silent, *lost}, default=self.rank):
            return
        where = f" in step {self.step}" if self.step else ""
        why = f"killed, or hanging for longer than engine.timeout = {self.timeout:g} s"
        what = f"lost rank {', '.join(map(str, lost))}{where} ({why})" if lost else f"the connection broke{where}"
        print(
            f"altpo-ds: {what}; start the same command again to continue from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )

    def _lost(self) -> tuple[list[int], list[int]]:
        """Ranks that are lost, and those of them that are silent altogether."""
        found: list[list[int]] = [[0], [0]]  # rank 0 keeps the store where no launcher does: without it no answers

        def call() -> None:
            with contextlib.suppress(RuntimeError):
                self._store.set(CALL, "")
                self._store.set(f"{CALL}/waited/{self.rank}", "")
                silent = self._without("here")
                # Where all answer, one hangs: all others gave up waiting.
                found[:] = silent or self._without("waited"), silent

        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(3 * PATIENCE)
        return found[0], found[1]

    def _without(self, sign: str) -> list[int]:
        end = time.monotonic() + PATIENCE
        while True:
            absent = [rank for rank in range(self.size) if not self._store.check([f"{CALL}/{sign}/{rank}"])]
            if not absent or time.monotonic() > end:
                return absent
            time.sleep(0.05)

    def _answer(self, store: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the store goes with the process that keeps it
            store.wait([CALL], LONG)
            store.set(f"{CALL}/here/{self.rank}", "")


def _store() -> Any:
    """A connection of its own to the store of the process group."""
    assert dist.group.WORLD is not None
    return dist.group.WORLD.get_group_store().clone()  # pyright: ignore[reportAttributeAccessIssue]


_roll_call: RollCall | None = None


def attend(rank: int, size: int, timeout: float) -> None:
    """Takes part from here on; once a process, where there are peers."""
    global _roll_call
    if _roll_call is None and size > 1:
        _roll_call = RollCall(rank, size, timeout)


def at_step(step: int) -> None:
    """Notes the step under way."""
    if _roll_call is not None:
        _roll_call.step = step


def is_broken(error: Exception) -> bool:
    """Whether an error is that of a collective which broke, or took longer than engine.timeout."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and bool(BROKEN.search(str(error))))


def explain(error: RuntimeError) -> bool:
    """Says which rank is lost; False where the error is another one."""
    if _roll_call is None or not is_broken(error):
        return False
    _roll_call.explain()
    return True
