"""Streams rows out of local files and hub datasets, each with its place for error messages."""

import contextlib
import glob
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import Source

# Lines and CSV are read here: a broken line is one broken row with a number, a CSV field is always text.
LINES, CSV = {".jsonl", ".ndjson"}, ".csv"
BUILDERS = {".json": "json", ".parquet": "parquet", ".arrow": "arrow"}  # of `datasets`
FORMATS = (*sorted(LINES), CSV, *BUILDERS)
COMPRESSION = {".gz", ".xz", ".bz2", ".zst"}


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


def suffix(path: str) -> str:
    """The format's file ending, under a compression's."""
    name = Path(path)
    return Path(name.stem).suffix.lower() if name.suffix.lower() in COMPRESSION else name.suffix.lower()


def files(source: Source) -> list[str] | None:
    """Local files of a source in a fixed order, or None where it names a hub dataset.

    Raises UserError for a file that is missing or of an unknown format.
    """
    found: list[str] = []
    for path in [source.path] if isinstance(source.path, str) else source.path:
        matches = sorted(glob.glob(path)) if any(c in path for c in "*?[") else [path]  # noqa: PTH207
        if not matches:
            raise UserError(f"no file matches '{path}'; check the pattern")
        if len(matches) == 1 and suffix(path) not in FORMATS and not Path(path).is_file():
            if isinstance(source.path, str):
                return None
            raise UserError(f"'{path}' is no data file; a list of paths holds files only")
        for match in matches:
            if not Path(match).is_file():
                raise UserError(f"data file '{match}' does not exist; check the path")
            if suffix(match) not in FORMATS:
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
        yield from ((Place(name, n), row) for n, row in enumerate(_open(name, **_hub(source)), 1))
        return
    for file in local:
        ending = suffix(file)
        if ending in LINES:
            yield from _json_lines(file)
            continue
        rows = _csv(file) if ending == CSV else _open(file, path=BUILDERS[ending], data_files=file, split="train")
        yield from ((Place(file, n), row) for n, row in enumerate(rows, 1))


def _hub(source: Source) -> dict[str, Any]:
    return {"path": source.path, "name": source.name, "split": source.split}


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever a reader raises becomes one line that names the file."""
    try:
        yield
    except Exception as error:  # the readers raise many types, from pyarrow's to fsspec's
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read '{name}': {type(error).__name__}: {reason}") from error


def _open(name: str, **options: Any) -> Iterator[dict[str, Any]]:
    """A streaming dataset's rows."""
    import datasets  # slow to import, and only streams need it

    with _readable(name):
        yield from datasets.load_dataset(**options, streaming=True)


def _csv(file: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file, every field a string."""
    import pandas as pd  # slow to import

    with _readable(file), pd.read_csv(file, dtype=str, keep_default_na=False, chunksize=1000) as chunks:
        for chunk in chunks:
            yield from chunk.to_dict("records")


def _lines(file: str) -> Iterator[bytes]:
    """Lines of a file, decompressed; only a newline ends one."""
    with _readable(file), fsspec.open(file, "rb", compression="infer") as stream:
        yield from stream  # pyright: ignore[reportGeneralTypeIssues]


def _json_lines(file: str) -> Iterator[tuple[Place, dict[str, Any] | Problem]]:
    for number, line in enumerate(_lines(file), 1):
        place = Place(file, number)
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield (
                place,
                Problem(place, "-", f"is not UTF-8 ({error.reason} at byte {error.start}); re-encode it"),
            )
            continue
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            yield place, Problem(place, "-", f"is not JSON ({error}); one object per line is expected")
            continue
        if isinstance(value, dict):
            yield place, value
        else:
            yield (
                place,
                Problem(place, "-", f"holds a {type(value).__name__}; one JSON object per line is expected"),
            )
