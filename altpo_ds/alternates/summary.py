"""What came out: the summary beside an alternates file, and its table."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from altpo_ds.alternates.quality import quality_table


@dataclass(frozen=True)
class Summary:
    """Counts and quality of a file of alternates. `short_file` lists the questions with fewer than wanted."""

    file: str
    sha256: str  # of the file
    short_file: str
    questions: int
    alternates: int
    short: int
    drawn: int  # samples
    tokens: int  # of all samples
    tokens_per_s: float | None
    acceptance: float | None  # share of the samples that no filter rejects
    rejected: dict[str, int]  # samples by reason
    quality: dict[str, float | None]
    settings: dict[str, Any]

    def short_questions(self) -> Iterator[dict[str, Any]]:
        """Rows of the questions that stayed short, in file order; also those without any alternate."""
        with Path(self.short_file).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def table(self) -> Table:
        """For the terminal: quality, then what became of the samples."""
        name = Path(self.file).name
        table = quality_table({name: (self.quality, self.rejected)}, f"Alternates: {self.file}")
        table.add_section()
        table.add_row("samples drawn", str(self.drawn))
        table.add_row("accepted by the filters", "–" if self.acceptance is None else f"{self.acceptance:.1%}")
        table.add_row("tokens per second", "–" if self.tokens_per_s is None else f"{self.tokens_per_s:.0f}")
        short = f"{self.short}" if not self.short else f"{self.short} (see {Path(self.short_file).name})"
        table.add_row("questions that stayed short", short)
        return table

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_summary(file: Path) -> Summary | None:
    """A summary as `as_json` wrote it; None where there is none, or one of another version."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {field.name for field in fields(Summary)}
    return Summary(**found) if isinstance(found, dict) and found.keys() == names else None
