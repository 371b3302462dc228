"""Ranks as processes of their own, without a launcher between them and the test: each has a status to look at."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from altpo_ds.engine.distributed import free_port
from tests.conftest import ROOT


class Ranks:
    """`altpo-ds VERB RUN.yaml OPTIONS` on several ranks; standard error of each in a file."""

    def __init__(self, arguments: list[str], folder: Path, ranks: int, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder / f"rank-{rank}.err" for rank in range(ranks)]
        common = {
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "OMP_NUM_THREADS": "1",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank, file in enumerate(self.files):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with file.open("wb") as stream:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "altpo_ds", *arguments],
                        env=os.environ | common | own | dict(env),
                        stderr=stream,
                        stdout=stream,
                        cwd=ROOT,
                    )
                )

    def signal(self, rank: int, number: signal.Signals) -> None:
        self.processes[rank].send_signal(number)

    def statuses(self, timeout: float = 240) -> list[int]:
        """Exit status of each rank, negative for the signal that ended it."""
        end = time.monotonic() + timeout
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]

    def text(self, rank: int = 0) -> str:
        return self.files[rank].read_text()

    def wait_for(self, seen: Callable[[], bool], timeout: float = 240) -> None:
        end = time.monotonic() + timeout
        while not seen():
            assert time.monotonic() < end, self.text()
            assert all(process.poll() is None for process in self.processes), self.text()
            time.sleep(0.02)


@contextmanager
def running(
    arguments: list[str], folder: Path, ranks: int = 2, env: Mapping[str, str] | None = None
) -> Iterator[Ranks]:
    """Ranks that are gone at the end, whatever happened."""
    started = Ranks(arguments, folder, ranks, env or {})
    try:
        yield started
    finally:
        for process in started.processes:
            process.kill()
            process.wait()
