"""Samples and finished rows of one shard in an SQLite file: append, commit, and find again after a crash."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from altpo_ds.alternates.question import Question, Sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder

TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS samples (
    question INTEGER, number INTEGER, text TEXT, tokens INTEGER, finished INTEGER, PRIMARY KEY (question, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (question INTEGER PRIMARY KEY, row TEXT);
"""


class Shard:
    """One process's part of the output. Each method that writes is one transaction: whole, or never was.

    The file stays locked while it is open: UserError where another process writes it.
    """

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self._file = file
        make_folder(file.parent)
        file.touch(mode=0o600)
        with _usable(file):
            self._db = _connect(f"{file.resolve().as_uri()}?mode=rwc")
        try:
            with _usable(file):
                self._db.executescript(TABLES)
                found = self._about("settings")
                if found is None:
                    self._set("settings", json.dumps(settings))
                    return
                begun = json.loads(found)
            if begun != json.loads(json.dumps(settings)):
                differ = [key for key, value in settings.items() if begun.get(key) != value]
                raise UserError(
                    f"'{file.parent}' holds part of a file begun with another {', '.join(differ) or 'schema'}; "
                    "restore that, or remove the folder"
                )
        except UserError:
            self._db.close()
            raise

    def _about(self, key: str) -> str | None:
        found = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def _set(self, key: str, value: str) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def add(self, drawn: Iterable[tuple[int, int, Sequence[Sample]]], seconds: float) -> None:
        """Keeps samples (question, number of the first, samples), and how long they took."""
        values = (
            (question, number, sample.text, sample.tokens, sample.finished)
            for question, first, samples in drawn
            for number, sample in enumerate(samples, first)
        )
        with _usable(self._file), self._db:
            self._db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", values)
            total = str(self.seconds + seconds)
            self._db.execute("INSERT OR REPLACE INTO about VALUES ('seconds', ?)", (total,))

    @property
    def seconds(self) -> float:
        """Time spent on sampling, in all starts."""
        with _usable(self._file):
            return float(self._about("seconds") or 0)

    def samples(self, question: int, first: int, count: int) -> list[Sample]:
        """Kept samples of a question from number `first` on, at most `count`."""
        query = "SELECT text, tokens, finished FROM samples WHERE question = ? AND number >= ? ORDER BY number LIMIT ?"
        with _usable(self._file):
            found = self._db.execute(query, (question, first, count)).fetchall()
        return [Sample(text, tokens, bool(finished)) for text, tokens, finished in found]

    def has_row(self, question: int) -> bool:
        with _usable(self._file):
            return self._db.execute("SELECT 1 FROM rows WHERE question = ?", (question,)).fetchone() is not None

    def finish(self, rows: Sequence[tuple[Question, dict[str, Any]]]) -> None:
        """Keeps the final rows of questions, whose samples are then no longer needed."""
        with _usable(self._file), self._db:
            texts = ((question.number, json.dumps(row, ensure_ascii=False)) for question, row in rows)
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", texts)
            self._db.executemany("DELETE FROM samples WHERE question = ?", ((q.number,) for q, _ in rows))

    def complete(self) -> None:
        """Marks that nothing is missing, and lets go of the file."""
        with _usable(self._file):
            self._set("complete", "1")
        self._db.close()

    def close(self) -> None:
        self._db.close()


class CompleteShards:
    """All shards of an output, read in the order of the questions. None of `open` where one is still being written."""

    def __init__(self, databases: Sequence[sqlite3.Connection], folder: Path) -> None:
        self._databases, self._folder = databases, folder

    @classmethod
    def open(cls, files: Sequence[Path]) -> "CompleteShards | None":
        databases: list[sqlite3.Connection] = []
        try:
            for file in files:
                databases.append(_connect(f"{file.resolve().as_uri()}?mode=rw"))
                if not databases[-1].execute("SELECT 1 FROM about WHERE key = 'complete'").fetchone():
                    break
            else:
                return cls(databases, files[0].parent)
        except sqlite3.OperationalError:  # not there yet, or locked by its writer or by another reader
            pass
        for database in databases:
            database.close()
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Question i is the next one of shard i modulo the number of shards."""
        with _usable(self._folder):
            cursors = [database.execute("SELECT row FROM rows ORDER BY question") for database in self._databases]
            while True:
                for cursor in cursors:
                    found = cursor.fetchone()
                    if found is None:
                        return
                    yield json.loads(found[0])

    def seconds(self) -> float:
        """Time of the shard that took longest."""
        query = "SELECT value FROM about WHERE key = 'seconds'"
        with _usable(self._folder):
            times = [database.execute(query).fetchone() for database in self._databases]
            return max(float(found[0]) if found else 0.0 for found in times)

    def close(self) -> None:
        for database in self._databases:
            database.close()


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """What SQLite says of a file that is locked, full or damaged, in one line. TypeError: NULL where text was."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"cannot use '{path}': {error}; see whether another process writes it, and to the free space: "
            "a second start continues after the last batch"
        ) from error
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{path}' is damaged: {reason}; remove it, and its samples are drawn again") from error


def _connect(uri: str) -> sqlite3.Connection:
    """A connection that locks its file at once, for as long as it is open."""
    database = sqlite3.connect(uri, uri=True, timeout=1)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        database.commit()
    except sqlite3.Error:
        database.close()
        raise
    return database
