"""Question to alternates, on disk: the join of two streams in any order, in bounded memory."""

import json
import sqlite3
import tempfile

from altpo_ds.config.schema import AlternatesSource
from altpo_ds.data.rows import parse_alternates, parsed
from altpo_ds.data.sources import Place, Problem


class AlternatesIndex:
    """Reads an alternates source once into a temporary SQLite file that goes with the process.

    `problems` lists its broken rows; `rows` counts the good ones.
    """

    def __init__(self, source: AlternatesSource) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="altpo_alternates_", suffix=".sqlite")  # noqa: SIM115
        self._db = sqlite3.connect(self._file.name)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE alternates (question TEXT, texts TEXT, file TEXT, row INTEGER)")
        self.problems: list[Problem] = []
        self.rows = 0
        for place, row in parsed(source, parse_alternates):
            if isinstance(row, Problem):
                self.problems.append(row)
                continue
            self.rows += 1
            values = (row.question.strip(), json.dumps(row.alternates), place.file, place.row)
            self._db.execute("INSERT INTO alternates VALUES (?, ?, ?, ?)", values)
        self._db.execute("CREATE INDEX by_question ON alternates (question)")
        self._db.commit()

    def find(self, question: str) -> list[tuple[Place, str]]:
        """Distinct alternates of a question in file order, each with the place it comes from; maybe none."""
        query = "SELECT texts, file, row FROM alternates WHERE question = ? ORDER BY rowid"
        found: dict[str, Place] = {}
        for texts, file, row in self._db.execute(query, (question.strip(),)):
            for text in json.loads(texts):
                found.setdefault(text, Place(file, row))
        return [(place, text) for text, place in found.items()]

    def close(self) -> None:
        self._db.close()
        self._file.close()
