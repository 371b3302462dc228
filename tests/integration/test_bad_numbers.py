"""A reference log-probability of one forget row is NaN: whatever the ZeRO stage, both ranks leave its updates out."""

import json
import math
from pathlib import Path

import pytest

from altpo_ds.data.batches import forget_tree
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine.models import load_tokenizer, model_hash
from altpo_ds.engine.reference_cache import ReferenceCache, response_keys
from tests.conftest import Command, Tiny, losses_of, metrics_of

STAGES = ("zero0", "zero2", "zero3_cpu")
POISONED = 5  # row of forget.jsonl, from 1


def poison(tiny: Tiny, cache_folder: Path) -> None:
    """A cache that holds all that the run looks up, with one NaN."""
    cache = ReferenceCache(cache_folder / "reference" / f"{model_hash(str(tiny.model))}-float32.safetensors")
    chat = ChatTokenizer(load_tokenizer(str(tiny.model)))
    for number, line in enumerate(tiny.alternates.read_text().splitlines(), 1):
        row = json.loads(line)
        keys = response_keys(forget_tree(chat, row["question"], row["answer"], row["alternates"]))
        cache.add(dict.fromkeys(keys, -20.0))
        if number == POISONED:
            cache.add({keys[0]: math.nan})
    cache.save()


@pytest.mark.slow
def test_a_step_with_a_bad_row_makes_no_update(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    poison(tiny, tmp_path / "cache")
    # three steps an epoch; the row is in the second
    steps = {"train__epochs": 3, "data__shuffle_buffer": 0, "train__micro_batch_tokens": 57, "data__max_tokens": 57}
    runs = {stage: tmp_path / stage for stage in STAGES}
    skip = [
        ("unlearn", tiny.options(run_dir, engine__deepspeed=stage, train__on_nonfinite="skip", **steps))
        for stage, run_dir in runs.items()
    ]
    stopped = ("unlearn", tiny.options(tmp_path / "stopped", checkpoints__every=1, **steps))
    result = command.many([*skip, stopped], 2)
    assert result.returncode != 0
    for run_dir in runs.values():
        assert [line["train/skipped"] for line in metrics_of(run_dir)] == [0, 1, 1, 1, 2, 2, 2, 3, 3]
        losses = losses_of(run_dir)
        assert [number for number, loss in enumerate(losses, 1) if loss is None] == [2, 5, 8]
        assert [loss for loss in losses if loss] == pytest.approx([loss for loss in losses_of(runs["zero0"]) if loss])
        assert losses[0] > losses[6]
    assert result.stderr.count("skipped, 3 of at most 3") == len(runs)
    file = tmp_path / "stopped" / "diagnosis-step-2.json"
    assert file.stat().st_mode & 0o077 == 0
    diagnosis = json.loads(file.read_text())
    assert diagnosis["loss"] == "nan"
    assert [rank["rank"] for rank in diagnosis["ranks"]] == [0, 1]
    bad = [row for rank in diagnosis["ranks"] for row in rank["rows"] if row["reference_log_prob"] == "nan"]
    rank = next(rank["rank"] for rank in diagnosis["ranks"] if bad[0] in rank["rows"])
    row = f"{tiny.forget} row {POISONED} on rank {rank}"
    assert f"altpo-ds: error: the loss of step 2 is not finite: {row} ({file}); nothing was updated." in result.stderr
    assert [(row["kind"], row["row"]) for row in bad] == [("forget", POISONED)]
    assert [pair["loss"] for pair in bad[0]["alternates"]] == ["nan", "nan"]
    assert math.isfinite(bad[0]["log_prob"])
    assert [line["step"] for line in metrics_of(tmp_path / "stopped")] == [1]


@pytest.mark.slow
def test_too_many_skips_stop(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    poison(tiny, tmp_path / "cache")
    options = {"train__on_nonfinite": "skip", "train__max_skips": 0, "data__shuffle_buffer": 0}
    result = command("unlearn", tiny.options(tmp_path / "run", **options))
    assert result.returncode == 2
    assert "train.max_skips = 0 steps were skipped before" in result.stderr
