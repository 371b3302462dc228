"""How far sampling is: a bar on a terminal, a line every half minute elsewhere, from rank 0 alone."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

INTERVAL = 30  # seconds between two lines

Report = Callable[[int, str], None]


@contextlib.contextmanager
def progress(name: str, total: int, shown: bool) -> Iterator[Report]:
    """Yields a function that takes how much is done and a word on how it goes."""
    if not shown:
        yield lambda done, text: None
    elif sys.stderr.isatty():
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, text="")
            yield lambda done, text: bar.update(task, completed=done, text=text)
    else:
        yield _lines(name, total)


def _lines(name: str, total: int) -> Report:
    begun = last = time.monotonic()
    first: int | None = None

    def report(done: int, text: str) -> None:
        nonlocal first, last
        first, now = done if first is None else first, time.monotonic()
        if now - last < INTERVAL and done < total:
            return
        left = timedelta(seconds=round((now - begun) / max(1, done - first) * (total - done)))
        print(f"{name} {done}/{total}  {text}  ETA {left}", file=sys.stderr, flush=True)
        last = now

    return report
