"""Our lists of DeepSpeed's keys are those that the installed DeepSpeed reads."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zenflow.zenflow_config import ZenFlowConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

from altpo_ds.config.batch import batch_arithmetic
from altpo_ds.config.deepspeed import deepspeed_dict
from altpo_ds.config.deepspeed_keys import KNOWN, REFUSED, ZERO_OPTIMIZATION
from altpo_ds.config.schema import RunConfig


class Recorder(dict[str, Any]):
    """A dict that notes every key it is asked for, also through `key in d.keys()`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: set[str] = set()

    def __copy__(self) -> "Recorder":
        return self

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def keys(self) -> Any:
        return RecordedKeys(self)


class RecordedKeys:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __contains__(self, key: object) -> bool:
        return key in self.recorder

    def __iter__(self) -> Iterator[str]:
        return iter(self.recorder)


def test_every_key_that_deepspeed_reads_is_known_or_refused() -> None:
    recorder = Recorder({"train_batch_size": 1})
    DeepSpeedConfig(recorder)  # pyright: ignore[reportArgumentType]
    assert not KNOWN.keys() & REFUSED.keys()
    assert KNOWN.keys() | REFUSED.keys() == recorder.asked


@pytest.mark.parametrize(
    ("name", "known"),
    [(name, KNOWN[name]) for name in ("activation_checkpointing", "aio", "flops_profiler", "data_types", "timers")],
)
def test_sections_that_deepspeed_reads_key_by_key(name: str, known: Any) -> None:
    section = Recorder()
    DeepSpeedConfig({"train_batch_size": 1, name: section})
    assert set(known) == section.asked


@pytest.mark.parametrize(
    ("known", "model"),
    [
        (ZERO_OPTIMIZATION, DeepSpeedZeroConfig),
        (ZERO_OPTIMIZATION["offload_param"], DeepSpeedZeroOffloadParamConfig),
        (ZERO_OPTIMIZATION["offload_optimizer"], DeepSpeedZeroOffloadOptimizerConfig),
        (ZERO_OPTIMIZATION["zenflow"], ZenFlowConfig),
        (ZERO_OPTIMIZATION["leaf_module"], DeepSpeedZeroLeafModuleConfig),
        (KNOWN["bf16"], DeepSpeedBF16Config),
        (KNOWN["fp16"], DeepSpeedFP16Config),
        (KNOWN["comms_logger"], CommsLoggerConfig),
        (KNOWN["compile"], CompileConfig),
        (KNOWN["tensorboard"], TensorBoardConfig),
        (KNOWN["csv_monitor"], CSVConfig),
        (KNOWN["comet"], CometConfig),
        (KNOWN["timers"]["throughput"], DeepSpeedThroughputTimerConfig),  # pyright: ignore
    ],
)
def test_sections_that_deepspeed_reads_by_a_model(known: Any, model: type[BaseModel]) -> None:
    assert set(known) == {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (Path(__file__).parents[2] / "ds_configs").glob("*.json"))
)
def test_deepspeed_accepts_the_dict_of_every_file(name: str, has_gpu: bool) -> None:
    config = RunConfig.model_validate({"run_dir": "r", "model": {"path": "m"}, "engine": {"deepspeed": name}})
    settings = deepspeed_dict(config, batch_arithmetic(config.train, 1), has_gpu=has_gpu)
    read = DeepSpeedConfig(settings)
    assert (read.train_batch_size, read.gradient_accumulation_steps) == (7, 7)
    assert read.gradient_clipping == 1.0
    assert read.bfloat16_config.enabled is has_gpu
    assert read.zero_optimization_stage == settings["zero_optimization"]["stage"]
