"""Every format gives the same rows; what is broken is named by file and row, what is no data by one line."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import Source
from altpo_ds.data.formats import suffix
from altpo_ds.data.sources import Place, Problem, describe, files, read

ROWS: list[dict[str, Any]] = [{"question": f"q{i}", "answer": f"a{i} \u00e9"} for i in range(3)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def rows_of(path: Path | list[Path]) -> list[Any]:
    return [row for _, row in read(Source(path=str(path) if isinstance(path, Path) else [str(p) for p in path]))]


def write(file: Path, content: bytes = JSONL) -> Path:
    file.write_bytes(content)
    return file


def write_csv(file: Path) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    return file


def write_arrow(file: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    made = [
        write(tmp_path / "a.jsonl"),
        write(tmp_path / "a.ndjson"),
        write(tmp_path / "a.jsonl.gz", gzip.compress(JSONL)),
        write(tmp_path / "a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
        write(tmp_path / "a.csv.gz", gzip.compress(write_csv(tmp_path / "b.csv").read_bytes())),
        write(tmp_path / "a.jsonl.xz", lzma.compress(JSONL)),
        write(tmp_path / "a.jsonl.bz2", bz2.compress(JSONL)),
        write(tmp_path / "a.json", json.dumps(ROWS).encode()),
        tmp_path / "a.parquet",
        write_csv(tmp_path / "a.csv"),
        write_arrow(tmp_path / "a.arrow"),
    ]
    for file in made:
        source = Source(path=str(file))
        expected = [(Place(str(file), number), row) for number, row in enumerate(ROWS, 1)]
        assert [(place, dict(row)) for place, row in read(source) if isinstance(row, dict)] == expected, file.name


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + JSONL,
        JSONL.replace(b"\n", b"\r\n"),
        JSONL.replace(b"\n", b"\n\n  \n"),
        JSONL.rstrip(b"\n"),
        b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n"),
    ],
    ids=["BOM", "CRLF", "blank lines", "no last newline", "BOM, CRLF and blank lines"],
)
def test_lines_as_editors_leave_them(tmp_path: Path, content: bytes) -> None:
    assert rows_of(write(tmp_path / "a.jsonl", content)) == ROWS


@pytest.mark.parametrize("text", ["a\u2028b\u2029c", "a\u0085b", "a\x0bb\x0cc\x1cd\x1ee", "\U0001f600 \u4e2d"])
def test_only_a_newline_ends_a_line(tmp_path: Path, text: str) -> None:
    row = {"question": text.replace("\x0b", "").replace("\x0c", ""), "answer": "x"}
    content = json.dumps(row, ensure_ascii=False).encode() + b"\n" + JSONL
    assert rows_of(write(tmp_path / "a.jsonl", content)) == [row, *ROWS]


def test_a_line_of_a_megabyte_and_more(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "long " * 250_000}
    assert rows_of(write(tmp_path / "a.jsonl", json.dumps(row).encode() + b"\n" + JSONL)) == [row, *ROWS]


def test_broken_lines_are_numbered_as_in_an_editor(tmp_path: Path) -> None:
    lines = [
        b'{"question": "q"',
        b"",
        b"[1, 2]",
        b'{"question": "\xff"}',
        b'"text"',
        b"[" * 100_000,
        JSONL.split(b"\n")[0],
    ]
    file = write(tmp_path / "a.jsonl", b"\n".join(lines))
    found = list(read(Source(path=str(file))))
    assert [place.row for place, _ in found] == [1, 3, 4, 5, 6, 7]
    problems = [row for _, row in found[:-1]]
    expected = ["is not JSON", "holds a list", "is not UTF-8", "holds a str", "is not JSON"]
    for problem, what in zip(problems, expected, strict=True):
        assert isinstance(problem, Problem)
        assert what in problem.what
        assert str(problem).startswith(f"{file} row {problem.place.row}, column '-': ")
        assert "\n" not in str(problem)
    assert found[-1][1] == ROWS[0]


def test_globs_and_lists_keep_a_fixed_order(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.jsonl", b'{"n": 2}'), write(tmp_path / "a.jsonl", b'{"n": 1}')
    assert rows_of(tmp_path / "*.jsonl") == [{"n": 1}, {"n": 2}]
    assert rows_of([b, a]) == [{"n": 2}, {"n": 1}]
    assert [place for place, _ in read(Source(path=[str(b), str(a)]))] == [Place(str(b), 1), Place(str(a), 1)]


def test_a_name_without_a_known_ending_is_a_hub_dataset() -> None:
    assert files(Source(path="locuslab/TOFU", name="forget10")) is None
    assert describe(Source(path="locuslab/TOFU", name="forget10")) == [
        {"hub": "locuslab/TOFU", "name": "forget10", "split": "train"}
    ]


def test_provenance_of_a_file(tmp_path: Path) -> None:
    [described] = describe(Source(path=str(write(tmp_path / "a.jsonl", b"abc"))))
    assert described["bytes"] == 3
    assert described["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("name", "ending"), [("a.jsonl", ".jsonl"), ("a.JSONL.gz", ".jsonl"), ("x.y.csv.xz", ".csv"), ("a/b", "")]
)
def test_suffix(name: str, ending: str) -> None:
    assert suffix(name) == ending


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("a.txt", b"text", "unknown format; known: .jsonl"),
        ("a.parquet", b"PAR1 and no more", "cannot read '.*a.parquet'"),
        ("a.jsonl.gz", b"this is no gzip", "cannot read '.*a.jsonl.gz'"),
        ("a.jsonl.gz", gzip.compress(JSONL * 1000)[:-30], "cannot read '.*a.jsonl.gz'"),
        ("a.json", b"[{", "cannot read '.*a.json'"),
    ],
    ids=["missing", "unknown ending", "corrupt parquet", "no gzip", "gzip cut short", "corrupt json"],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        rows_of(file)
    assert "\n" not in str(caught.value)


def test_paths_that_name_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        files(Source(path=str(tmp_path / "*.jsonl")))
    with pytest.raises(UserError, match="'locuslab/TOFU' does not exist"):
        files(Source(path=["locuslab/TOFU"]))  # a list of paths holds files only
    for name in ("../x", "a/b/c", "/etc", "a/.."):
        with pytest.raises(UserError, match=r"does not exist|is a folder"):
            files(Source(path=name))
    with pytest.raises(UserError, match="is a folder; name its files"):
        files(Source(path=str(tmp_path)))
    with pytest.raises(UserError, match="does not exist"):
        files(Source(path=[str(write(tmp_path / "a.jsonl")), str(tmp_path / "b.jsonl")]))
