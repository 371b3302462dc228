"""Shards on disk: found again, locked, merged in order."""

from pathlib import Path
from typing import Any

import pytest

from altpo_ds.alternates.question import Question, Sample
from altpo_ds.alternates.store import CompleteShards, Shard
from altpo_ds.config.errors import UserError

SETTINGS: dict[str, Any] = {"seed": 0, "prompt": "chat"}
SAMPLES = [Sample("eins", 2, True), Sample("zwei “ü”", 3, False)]


def test_samples_are_there_after_a_reopening(tmp_path: Path) -> None:
    file = tmp_path / "new" / "shard.sqlite"
    shard = Shard(file, SETTINGS)
    shard.add([(4, 0, SAMPLES), (9, 5, SAMPLES[:1])], seconds=1.5)
    shard.close()
    shard = Shard(file, SETTINGS)
    assert shard.samples(4, 0, 9) == SAMPLES
    assert shard.samples(4, 1, 9) == SAMPLES[1:]
    assert shard.samples(9, 0, 9) == SAMPLES[:1]
    assert shard.samples(5, 0, 9) == []
    shard.add([(4, 2, SAMPLES)], seconds=2)
    assert shard.samples(4, 0, 2) == shard.samples(4, 2, 2) == SAMPLES
    assert shard.seconds == 3.5
    shard.close()


def test_finishing_keeps_rows_and_drops_samples(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shard.sqlite", SETTINGS)
    shard.add([(4, 0, SAMPLES), (5, 0, SAMPLES)], seconds=1)
    shard.finish([(Question(4, "q", "a"), {"x": 1})])
    assert shard.has_row(4)
    assert not shard.has_row(5)
    assert (shard.samples(4, 0, 9), shard.samples(5, 0, 9)) == ([], SAMPLES)
    shard.close()


def test_a_half_written_batch_is_not_there(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shard.sqlite", SETTINGS)

    def broken() -> Any:
        yield (1, 0, SAMPLES)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        shard.add(broken(), seconds=1)
    assert shard.samples(1, 0, 9) == []
    assert shard.seconds == 0
    shard.close()


def test_another_process_and_other_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "shard.sqlite"
    shard = Shard(file, SETTINGS)
    with pytest.raises(UserError, match="locked; see whether another process writes it"):
        Shard(file, SETTINGS)
    shard.close()
    with pytest.raises(UserError, match="begun with another seed; restore that, or remove the folder"):
        Shard(file, SETTINGS | {"seed": 1})
    Shard(file, SETTINGS).close()


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shard.sqlite"
    file.write_text("something else" * 100)
    with pytest.raises(UserError, match="not a database"):
        Shard(file, SETTINGS)


def test_shards_are_merged_in_order_once_all_are_complete(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.sqlite" for number in range(3)]
    shards = [Shard(file, SETTINGS) for file in files]
    for number, shard in enumerate(shards):
        rows = [(Question(question, "", ""), {"n": question}) for question in range(number, 8, 3)]
        shard.finish(rows[1:])
        shard.finish(rows[:1])
        shard.add([(100, 0, SAMPLES)], seconds=1 + number)
    shards[0].complete()
    shards[1].complete()
    assert CompleteShards.open(files) is None  # the last one is open
    shards[2].close()
    assert CompleteShards.open(files) is None  # and not complete
    Shard(files[2], SETTINGS).complete()
    merged = CompleteShards.open(files)
    assert merged is not None
    assert CompleteShards.open(files) is None  # another process merges
    assert [row["n"] for row in merged.rows()] == list(range(8))
    assert merged.seconds() == 3
    merged.close()
    assert CompleteShards.open([*files, tmp_path / "missing.sqlite"]) is None
    assert not (tmp_path / "missing.sqlite").exists()
