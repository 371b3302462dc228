"""Finished shards to the file of alternates, in the order of the questions, row by row."""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from altpo_ds.alternates.acceptance import OUTRANKED, SURPLUS
from altpo_ds.alternates.quality import Quality
from altpo_ds.alternates.store import CompleteShards
from altpo_ds.alternates.summary import Summary, sha256
from altpo_ds.config.errors import UserError
from altpo_ds.config.files import whole_file, write_whole
from altpo_ds.config.schema import AlternatesConfig


def short_file(out: Path) -> Path:
    return out.with_suffix(".short.jsonl")


def summary_file(out: Path) -> Path:
    return out.with_suffix(".summary.json")


def partial_folder(out: Path) -> Path:
    """Where the shards of an unfinished file lie."""
    return out.with_name(f"{out.name}.partial")


def merge_shards(out: Path, shards: int, config: AlternatesConfig, settings: dict[str, Any]) -> Summary | None:
    """Writes the file, its list of short questions and its summary, and removes the shards.

    None where a shard is still being written, or another process merges.
    """
    folder = partial_folder(out)
    complete = CompleteShards.open([shard_file(folder, number, shards) for number in range(shards)])
    if complete is None:
        return None
    try:
        with _written(short_file(out)) as short, _written(out) as file:
            summary = _write(complete, out, file, short, config, settings)
        summary = replace(summary, sha256=sha256(out))
        write_whole(summary_file(out), summary.as_json())
    except UserError as error:
        raise UserError(f"{error}; the samples are kept in '{folder}'") from error
    finally:
        complete.close()
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def shard_file(folder: Path, number: int, shards: int) -> Path:
    return folder / f"shard-{number}-of-{shards}.sqlite"


def _write(
    complete: CompleteShards, out: Path, file: TextIO, short: TextIO, config: AlternatesConfig, settings: dict[str, Any]
) -> Summary:
    quality, rejected, totals = Quality(), Counter(), Counter()
    for stored in complete.rows():
        row, tokens = stored["row"], stored["tokens"]
        alternates, meta = row["alternates"], row["meta"]
        totals.update(questions=1, alternates=len(alternates), drawn=meta["drawn"], tokens=tokens)
        rejected.update(item["reason"] for item in meta["rejected"])
        line = json.dumps(row, ensure_ascii=False) + "\n"
        if alternates:
            quality.add(row["question"], row["answer"], alternates, meta.get("log_probs"), config)
            file.write(line)
        if len(alternates) < config.count:
            totals["short"] += 1
            short.write(line)
    seconds, drawn = complete.seconds(), totals["drawn"]
    unfit = rejected.total() - rejected[SURPLUS] - rejected[OUTRANKED]
    return Summary(
        file=str(out),
        sha256="",  # known when it is whole
        short_file=str(short_file(out)),
        **{name: totals[name] for name in ("questions", "alternates", "short", "drawn", "tokens")},
        tokens_per_s=totals["tokens"] / seconds if seconds else None,
        acceptance=1 - unfit / drawn if drawn else None,
        rejected=dict(rejected.most_common()),
        quality=quality.measures(),
        settings=settings,
    )


@contextlib.contextmanager
def _written(file: Path) -> Iterator[TextIO]:
    """A text file that gets its name when it is whole."""
    with whole_file(file) as aside, aside.open("w", encoding="utf-8") as stream:
        yield stream
