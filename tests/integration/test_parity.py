"""The same losses whatever the number of ranks, the ZeRO stage, the split into micro-batches, the reference mode."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, Tiny, losses_of, metrics_of

STEPS = 5
EXPECTED = "zero0"  # one rank, no sharding, the whole batch in one pass
# by which the five steps take 6, 7, 6, 7 and 6 passes on one rank, half as many on two
LIMITED: dict[str, object] = {"train__micro_batch_tokens": 57, "data__max_tokens": 57}

# by number of ranks: name of the run, its options
VARIANTS: dict[int, dict[str, dict[str, object]]] = {
    1: {
        EXPECTED: {"engine__deepspeed": "zero0", "train__micro_batch_size": 4},
        "zero2": {"engine__deepspeed": "zero2"},
        "zero3": {"engine__deepspeed": "zero3_cpu", "train__micro_batch_size": 2},
        "padded": {"engine__deepspeed": "zero3_cpu", "model__attention": "padded"},
        "kl": {"objective__retain_loss": "kl", "reference__mode": "online"},
        "finetuned": {"train__micro_batch_size": 4},
        "zero0_limited": {"engine__deepspeed": "zero0", "train__micro_batch_size": 4, **LIMITED},
        "zero2_limited": {"engine__deepspeed": "zero2", "train__micro_batch_size": 4, **LIMITED},
        "zero3_limited": {"engine__deepspeed": "zero3_cpu", "train__micro_batch_size": 4, **LIMITED},
    },
    2: {
        "zero0_2_ranks": {"engine__deepspeed": "zero0"},
        "zero2_2_ranks": {"engine__deepspeed": "zero2"},
        "zero3_2_ranks": {"engine__deepspeed": "zero3_cpu"},
        "zero3_offload_2_ranks": {"engine__deepspeed": "zero3_offload"},
        "zero3_2_ranks_wide": {"engine__deepspeed": "zero3_cpu", "train__micro_batch_size": 2},
        "online_2_ranks": {"engine__deepspeed": "zero3_cpu", "reference__mode": "online"},
        "kl_2_ranks": {"objective__retain_loss": "kl", "reference__mode": "online"},
        "finetuned_2_ranks_limited": {
            "train__micro_batch_size": 2,
            "train__micro_batch_tokens": 38,
            "data__max_tokens": 38,
        },
        "zero0_2_ranks_limited": {"engine__deepspeed": "zero0", **LIMITED},
        "zero2_2_ranks_limited": {"engine__deepspeed": "zero2", **LIMITED},
        "zero3_2_ranks_limited": {"engine__deepspeed": "zero3_cpu", **LIMITED},
    },
    4: {"zero3_4_ranks": {"engine__deepspeed": "zero3_cpu"}},
}


@pytest.mark.slow
def test_ranks_stages_and_splits_agree(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    hpz = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text())
    hpz["zero_optimization"]["zero_hpz_partition_size"] = 2  # ZeRO++'s part that needs no kernel of a GPU's
    (tmp_path / "hpz.json").write_text(json.dumps(hpz))
    variants_of = VARIANTS | {2: VARIANTS[2] | {"hpz_2_ranks": {"engine__deepspeed": tmp_path / "hpz.json"}}}
    for ranks, variants in variants_of.items():
        calls = [
            (
                "finetune" if "finetuned" in name else "unlearn",
                tiny.options(tmp_path / name, train__max_steps=STEPS, **options),
            )
            for name, options in variants.items()
        ]
        result = command.many(calls, ranks)
        assert result.returncode == 0, result.stderr[-3000:]
        losses |= {name: losses_of(tmp_path / name) for name in variants}
    assert len(losses[EXPECTED]) == STEPS
    assert losses[EXPECTED][-1] < losses[EXPECTED][0]
    assert losses["kl_2_ranks"] == pytest.approx(losses["kl"], abs=1e-5)
    assert losses["finetuned_2_ranks_limited"] == pytest.approx(losses["finetuned"], abs=1e-5)
    assert losses["kl"] != pytest.approx(losses[EXPECTED], abs=1e-2)
    for name, passes in {"zero3_limited": [6, 7, 6, 7, 6], "zero3_2_ranks_limited": [3, 4, 3, 4, 3]}.items():
        assert [line["perf/passes"] for line in metrics_of(tmp_path / name)] == passes
    for name in losses.keys() - {"kl", "kl_2_ranks", "finetuned", "finetuned_2_ranks_limited"}:
        assert losses[name] == pytest.approx(losses[EXPECTED], abs=1e-5), name
