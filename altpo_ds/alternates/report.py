"""Quality of files that are there already, ours or others', in the long form or one row per question."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rich.table import Table

from altpo_ds.alternates.backend import Backend, open_backend
from altpo_ds.alternates.quality import Quality, quality_table
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesSource, RunConfig
from altpo_ds.data.rows import AlternatesRow, QARow, parse_alternates, parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.engine.distributed import World, gather_objects, start, together

CHUNK = 64  # questions that all ranks score together

Group = tuple[str, str, tuple[str, ...]]


def report_quality(config: RunConfig, files: Sequence[str]) -> dict[str, Quality]:
    """Quality of each file by its path. All ranks call it together; each measures its share.

    Log-probabilities are those of the run's model where it samples with its own engine.
    """
    world = start(config.engine.timeout)
    by_engine = config.alternates.backend == "transformers"
    with open_backend(config, world) if by_engine else contextlib.nullcontext() as backend:
        return {file: _quality(config, file, backend, world) for file in files}


def _quality(config: RunConfig, file: str, backend: Backend | None, world: World) -> Quality:
    quality, groups = Quality(), read_groups(_source(config, file))
    while True:
        with together():
            chunk = list(islice(groups, CHUNK))
        if not chunk:
            break
        mine = chunk[world.rank :: world.size]
        scored = backend.log_probs([(question, texts) for question, _, texts in mine]) if backend else None
        for place, group in enumerate(mine):
            quality.add(*group, scored[place] if scored else None, config.alternates)
    whole = Quality()
    for part in gather_objects(quality):
        whole.merge(part)
    if not whole.counts["questions"]:
        raise UserError(f"'{file}': no usable row")
    return whole


def _source(config: RunConfig, file: str) -> AlternatesSource:
    columns: dict[str, Any] = config.data.alternates.model_dump(exclude={"path"}) if config.data.alternates else {}
    return AlternatesSource(path=file, **columns)


def read_groups(source: AlternatesSource) -> Iterator[Group]:
    """(question, answer, alternates); rows of one question stand together, as in the long form. UserError if broken."""
    for (question, answer), rows in groupby(_rows(source), key=lambda row: row[:2]):
        yield question, answer, tuple(text for row in rows for text in row[2])


def _rows(source: AlternatesSource) -> Iterator[Group]:
    answers = parsed(source, parse_qa)
    for (_, row), (_, answer) in zip(parsed(source, parse_alternates), answers, strict=True):
        for broken in (row, answer):
            if isinstance(broken, Problem):
                raise UserError(f"{broken}; mend it")
        assert isinstance(row, AlternatesRow)
        assert isinstance(answer, QARow)
        yield row.question, answer.answer, row.alternates


def report_table(results: dict[str, Quality]) -> Table:
    columns = {Path(file).stem: (quality.measures(), dict(quality.rejected)) for file, quality in results.items()}
    return quality_table(columns, "Quality of alternates")
