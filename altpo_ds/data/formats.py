"""Readers of local files by their ending: rows one after the other, numbered as an editor numbers them.

They are read here, not by `datasets`: a broken line is one broken row with a number, a CSV field is always text, and
pyarrow's JSON reader, which `datasets` uses, ends the process on some damaged files.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from altpo_ds.config.errors import UserError

LINES, BATCH = {".jsonl", ".ndjson"}, 1000
TEXT, BINARY = {*LINES, ".json", ".csv"}, {".parquet", ".arrow"}
FORMATS = (*sorted(LINES), ".json", ".csv", ".parquet", ".arrow")
COMPRESSION = {".gz", ".xz", ".bz2", ".zst"}  # of text; the binary formats compress themselves

Rows = Iterator[tuple[int, dict[str, Any] | str]]
"""Numbers from 1 with a row, or with what is wrong with it."""


def suffix(path: str) -> str:
    """The format's file ending, under a compression's; empty where the format is unknown."""
    name = Path(path)
    outer, inner = name.suffix.lower(), Path(name.stem).suffix.lower()
    return (inner if inner in TEXT else "") if outer in COMPRESSION else outer if outer in FORMATS else ""


def read_rows(file: str) -> Rows:
    """Rows of a file of a known ending. UserError where it cannot be read at all, or not further."""
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    return readers.get(suffix(file), _lines)(file)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever a reader raises becomes one line that names the file."""
    try:
        yield
    except Exception as error:  # the readers raise many types, from pyarrow's to fsspec's
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read '{name}': {type(error).__name__}: {reason}; restore or re-encode it") from error


@contextlib.contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    with readable(file), fsspec.open(file, "rb", compression="infer") as stream:
        yield stream  # pyright: ignore[reportReturnType]


def _lines(file: str) -> Rows:
    """JSON objects, one a line; only a newline ends one, and empty ones are passed over."""
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, _object(json.loads(text))
            except UnicodeDecodeError as error:
                yield number, f"is not UTF-8 ({error.reason} at byte {error.start}); re-encode it"
            except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
                yield number, f"is not JSON ({error}); one object per line is expected"


def _json(file: str) -> Rows:
    """A list of objects, read whole; hubs also give files of lines this ending."""
    with _opened(file) as stream:
        begin = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if begin == b"[":
            stream.seek(0)
            yield from enumerate(map(_object, json.loads(stream.read().decode("utf-8-sig"))), 1)
            return
    yield from _lines(file)


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"holds a {type(value).__name__}; a JSON object is expected"


def _csv(file: str) -> Rows:
    import pandas as pd  # slow to import

    with readable(file), pd.read_csv(file, dtype=str, keep_default_na=False, chunksize=BATCH) as chunks:
        rows = (row for chunk in chunks for row in chunk.to_dict("records"))
        yield from enumerate(rows, 1)  # pyright: ignore[reportReturnType]


def _parquet(file: str) -> Rows:
    import pyarrow.parquet as pq

    with readable(file), pq.ParquetFile(file) as parquet:
        rows = (row for batch in parquet.iter_batches(BATCH) for row in batch.to_pylist())
        yield from enumerate(rows, 1)


def _arrow(file: str) -> Rows:
    """The stream form, which `datasets` saves, or the file form."""
    import pyarrow as pa

    with readable(file), pa.memory_map(file) as source:
        try:
            batches = iter(pa.ipc.open_stream(source))
        except pa.ArrowInvalid:
            whole = pa.ipc.open_file(source)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
