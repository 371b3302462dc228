"""The DeepSpeed dict: what the run fills, what contradicts it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed import deepspeed_dict
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig

BATCH = Batch(micro=2, accumulation=3, world=4, global_=24)
FILES = sorted(path.stem for path in (Path(__file__).parents[2] / "ds_configs").glob("*.json"))


def run(deepspeed: str | Path = "auto", **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"run_dir": "r", "model": {"path": "m"}, "engine": {"deepspeed": str(deepspeed)}, **sections}
    )


def filled(tmp_path: Path, settings: Any, **sections: Any) -> dict[str, Any]:
    path = tmp_path / "mine.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return deepspeed_dict(run(path, **sections), BATCH, has_gpu=False)


def failure(tmp_path: Path, settings: Any, **sections: Any) -> str:
    with pytest.raises(UserError) as caught:
        filled(tmp_path, settings, **sections)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "mine.json"))
    assert "\n" not in message
    return message


def autos(settings: Any) -> bool:
    return settings == "auto" or (isinstance(settings, dict) and any(map(autos, settings.values())))


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_every_file_is_filled_by_the_run(name: str, has_gpu: bool) -> None:
    settings = deepspeed_dict(run(name), BATCH, has_gpu=has_gpu)
    assert not autos(settings)
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 3
    assert settings["train_batch_size"] == 24
    assert settings["gradient_clipping"] == 1.0
    assert settings["bf16"]["enabled"] is has_gpu
    assert settings["fp16"]["enabled"] is False
    assert settings["zero_force_ds_cpu_optimizer"] is False
    assert settings["zero_allow_untested_optimizer"] is True


def test_the_files_are_what_their_names_say() -> None:
    zero = {name: deepspeed_dict(run(name), BATCH, has_gpu=True)["zero_optimization"] for name in FILES}
    assert {name: settings["stage"] for name, settings in zero.items()} == {
        "reference": 3,
        "zero0": 0,
        "zero2": 2,
        "zero3": 3,
        "zero3_cpu": 3,
        "zero3_nvme": 3,
        "zero3_offload": 3,
        "zeropp": 3,
    }
    devices = {
        name: tuple(settings.get(key, {}).get("device") for key in ("offload_param", "offload_optimizer"))
        for name, settings in zero.items()
    }
    assert devices == {
        "reference": ("cpu", None),
        "zero0": (None, None),
        "zero2": (None, None),
        "zero3": (None, None),
        "zero3_cpu": (None, None),
        "zero3_nvme": ("nvme", "nvme"),
        "zero3_offload": ("cpu", "cpu"),
        "zeropp": (None, None),
    }


def test_auto_chooses_by_the_device() -> None:
    for has_gpu, name in ((True, "zero3"), (False, "zero3_cpu")):
        chosen = deepspeed_dict(run("auto"), BATCH, has_gpu=has_gpu)
        assert chosen == deepspeed_dict(run(name), BATCH, has_gpu=has_gpu)


def test_the_reference_has_a_file_of_its_own() -> None:
    settings = deepspeed_dict(run("zero0"), BATCH, has_gpu=True, reference=True)
    assert settings["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    cpu = deepspeed_dict(run("zero0"), BATCH, has_gpu=False, reference=True)
    assert cpu["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": False}


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"),
    [("float32", False, False), ("bfloat16", True, False), ("float16", False, True)],
)
def test_precision_follows_the_run_on_any_device(tmp_path: Path, dtype: str, bf16: bool, fp16: bool) -> None:
    settings = filled(tmp_path, {"fp16": {"loss_scale": 8}}, model={"path": "m", "dtype": dtype})
    assert settings["bf16"] == {"enabled": bf16}
    assert settings["fp16"] == {"loss_scale": 8, "enabled": fp16}


def test_equal_values_and_auto_are_no_contradiction(tmp_path: Path) -> None:
    settings = filled(tmp_path, {"train_batch_size": 24, "gradient_clipping": "auto", "steps_per_print": 5})
    assert (settings["train_batch_size"], settings["gradient_clipping"], settings["steps_per_print"]) == (24, 1.0, 5)


def test_no_clipping_is_zero_to_deepspeed(tmp_path: Path) -> None:
    assert filled(tmp_path, {}, train={"max_grad_norm": None})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train_batch_size": 8}, "train_batch_size = 8: contradicts 24 from train.global_batch_size"),
        ({"train_micro_batch_size_per_gpu": 1}, "= 1: contradicts 2 from train.micro_batch_size"),
        ({"gradient_accumulation_steps": 1}, "= 1: contradicts 3 from train.gradient_accumulation_steps"),
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5: contradicts 1.0 from train.max_grad_norm"),
        ({"bf16": {"enabled": True}}, "bf16.enabled = true: contradicts false from model.dtype float32"),
        ({"bf16": {"enabled": 0}}, "bf16.enabled = 0: contradicts false"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = true: contradicts false from model.dtype float32"),
        ({"zero_force_ds_cpu_optimizer": True}, "contradicts false from the run's own optimizer"),
    ],
)
def test_a_contradiction_names_both_sides(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    assert expected in failure(tmp_path, settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"zero_optimization.stage": 3}, '"zero_optimization.stage": unknown key; write it as nested keys'),
        ({"zero_optimisation": {}}, "did you mean zero_optimization?"),
        ({"zero_optimization": {"stag": 3}}, '"zero_optimization.stag": unknown key; did you mean'),
        (
            {"zero_optimization": {"offload_param": {"pin_mem": True}}},
            'offload_param.pin_mem": unknown key; did you mean zero_optimization.offload_param.pin_memory?',
        ),
        ({"stage": 3}, "did you mean zero_optimization.stage?"),
        ({"zero_optimization": True}, "zero_optimization = true: must be an object with stage"),
        ({"optimizer": {"type": "Adam"}}, '"optimizer": set train.lr, train.betas and train.weight_decay'),
        ({"scheduler": {}}, '"scheduler": set train.scheduler and train.warmup'),
        ({"amp": {}}, '"amp": set model.dtype'),
        ({"pipeline": {}}, '"pipeline": this trainer has no such feature'),
        ({"steps_per_print": "auto"}, 'steps_per_print = "auto": the run does not decide it'),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, 'zero_optimization.reduce_bucket_size = "auto"'),
        ("{", "invalid JSON"),
        ('{"bf16": {}, "bf16": {}}', "invalid JSON: key 'bf16' is there twice"),
        ("[]", "holds a list; a DeepSpeed file is a JSON object"),
    ],
)
def test_a_wrong_file_is_refused_with_the_remedy(tmp_path: Path, settings: Any, expected: str) -> None:
    assert expected in failure(tmp_path, settings)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'zero4': not in ds_configs/.*did you mean zero"):
        deepspeed_dict(run("zero4"), BATCH, has_gpu=False)
    with pytest.raises(UserError, match=r"no\.json: cannot be read: No such file"):
        deepspeed_dict(run(tmp_path / "no.json"), BATCH, has_gpu=False)
