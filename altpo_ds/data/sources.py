"""Streams rows out of local files and hub datasets, each with its place for error messages."""

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.hub import hub_endpoint, hub_reachable
from altpo_ds.config.schema import Source
from altpo_ds.data.formats import FORMATS, read_rows, readable, suffix

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, order=True)
class Place:
    """Where a row stands: file (or hub dataset) and its number, from 1."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"


@dataclass(frozen=True)
class Problem:
    """One broken row. Ordered output names the place, the column and what is wrong."""

    place: Place
    column: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}, column '{self.column}': {self.what}"


def files(source: Source) -> list[str] | None:
    """Local files of a source in a fixed order, or None where it names a hub dataset.

    Raises UserError for a file that is missing or of an unknown format.
    """
    found: list[str] = []
    for path in [source.path] if isinstance(source.path, str) else source.path:
        matches = sorted(glob.glob(path)) if any(c in path for c in "*?[") else [path]  # noqa: PTH207
        if not matches:
            raise UserError(f"no file matches '{path}'; check the pattern")
        if matches == [source.path] and not suffix(path) and not Path(path).exists() and HUB_NAME.fullmatch(path):
            return None
        for match in matches:
            if Path(match).is_dir():
                raise UserError(f"'{match}' is a folder; name its files, for example '{match}/*.jsonl'")
            if not Path(match).is_file():
                raise UserError(f"data file '{match}' does not exist; check the path")
            if not suffix(match):
                raise UserError(f"data file '{match}' has an unknown format; known: {', '.join(FORMATS)}")
            found.append(match)
    return found


def describe(source: Source) -> list[dict[str, Any]]:
    """Provenance of a source: each file with its size in bytes and sha256, or the hub dataset's name."""
    local = files(source)
    if local is None:
        return [{"hub": source.path, "name": source.name, "split": source.split}]
    described = []
    for file in local:
        with Path(file).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        described.append({"file": file, "bytes": Path(file).stat().st_size, "sha256": digest})
    return described


def read(source: Source) -> Iterator[tuple[Place, dict[str, Any] | Problem]]:
    """Rows of a source one after the other, never all at once. A line that is no JSON object comes as a Problem."""
    local = files(source)
    if local is None:
        name = f"{source.path}[{source.split}]"
        yield from ((Place(name, n), row) for n, row in enumerate(_hub_rows(source, name), 1))
        return
    for file in local:
        for number, row in read_rows(file):
            place = Place(file, number)
            yield place, Problem(place, "-", row) if isinstance(row, str) else row


def _hub_rows(source: Source, name: str) -> Iterator[dict[str, Any]]:
    """A streaming dataset's rows."""
    import datasets  # slow to import, and only the hub needs it

    if not hub_reachable():
        raise UserError(
            f"data '{name}' is no file here, and {hub_endpoint()} cannot be reached; give a file, or see to the "
            "network and HF_HUB_OFFLINE"
        )
    with readable(name):
        yield from datasets.load_dataset(str(source.path), source.name, split=source.split, streaming=True)
