"""The final DeepSpeed dict: mechanics from a JSON file, batch, clipping and precision from the run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed_keys import KNOWN, REFUSED, KeyTree, dotted
from altpo_ds.config.errors import UserError
from altpo_ds.config.files import project_folder
from altpo_ds.config.keys import suggestion
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.sources import read_text

AUTO = "auto"
PRECISION = {"float32": None, "bfloat16": "bf16", "float16": "fp16"}


def deepspeed_dict(config: RunConfig, batch: Batch, *, has_gpu: bool, reference: bool = False) -> dict[str, Any]:
    """What `deepspeed.initialize` gets for the policy, or for the frozen reference.

    A value that the run decides may be absent or "auto" in the file; another value is a contradiction.
    Raises UserError for those, for unknown keys and for unreadable files.
    """
    name = config.reference.deepspeed if reference else config.engine.deepspeed
    if name == AUTO:
        name = "zero3" if has_gpu else "zero3_cpu"
    path = deepspeed_file(name)
    settings = _read(path)
    _check_keys(settings, KNOWN, path)
    for key, (value, source) in _decided(config, batch, has_gpu).items():
        _fill(settings, key, value, source, path)
    _fill_pin_memory(settings, has_gpu)
    if key := next(_autos(settings), None):
        raise UserError(f'{path}: {key} = "auto": the run does not decide it; write a value')
    return settings


def deepspeed_file(name: str) -> Path:
    """Path of a file in ds_configs/ by name; a path (with a slash or .json) is taken as it is."""
    if "/" in name or name.endswith(".json"):
        return Path(name)
    folder = project_folder("ds_configs")
    path = folder / f"{name}.json"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.json"))
        raise UserError(
            f"DeepSpeed file {name!r}: not in ds_configs/, nor a path ending in .json; {suggestion(name, names)}"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is there twice")
        return values

    try:
        settings = json.loads(read_text(path), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: invalid JSON: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds a {type(settings).__name__}; a DeepSpeed file is a JSON object")
    return settings


def _check_keys(settings: Mapping[str, Any], known: KeyTree, path: Path, prefix: str = "") -> None:
    for name, value in settings.items():
        key = prefix + name
        if not prefix and name in REFUSED:
            raise UserError(f'{path}: "{name}": {REFUSED[name]}')
        if name not in known:
            raise UserError(f'{path}: "{key}": unknown key; {suggestion(key, dotted())}')
        inner = known[name]
        if inner is None:
            continue
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key} = {json.dumps(value)}: must be an object with {', '.join(inner)}")
        _check_keys(value, inner, path, f"{key}.")


def _decided(config: RunConfig, batch: Batch, has_gpu: bool) -> dict[str, tuple[Any, str]]:
    """By dotted DeepSpeed key: the value that the run decides, and the run's key it comes from."""
    dtype = config.model.dtype
    if dtype == AUTO:
        dtype = "bfloat16" if has_gpu else "float32"
    precision = PRECISION[dtype]
    return {
        "train_micro_batch_size_per_gpu": (batch.micro, "train.micro_batch_size"),
        "gradient_accumulation_steps": (batch.accumulation, "train.gradient_accumulation_steps"),
        "train_batch_size": (batch.global_, "train.global_batch_size"),
        "gradient_clipping": (config.train.max_grad_norm or 0.0, "train.max_grad_norm"),
        "bf16.enabled": (precision == "bf16", f"model.dtype {dtype}"),
        "fp16.enabled": (precision == "fp16", f"model.dtype {dtype}"),
        # the optimizer is an object of the run's, which DeepSpeed would otherwise refuse
        "zero_allow_untested_optimizer": (True, "the run's own optimizer"),
        "zero_force_ds_cpu_optimizer": (False, "the run's own optimizer"),
    }


def _fill(settings: dict[str, Any], key: str, value: Any, source: str, path: Path) -> None:
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    written = settings.get(name, AUTO)
    if written != AUTO and (written != value or isinstance(written, bool) != isinstance(value, bool)):
        raise UserError(
            f"{path}: {key} = {json.dumps(written)}: contradicts {json.dumps(value)} from {source}; "
            f'write "auto", or change the run'
        )
    settings[name] = value


def _fill_pin_memory(settings: dict[str, Any], has_gpu: bool) -> None:
    """Pinned host memory speeds up copies to a GPU, and has no use without one."""
    for section in ("offload_param", "offload_optimizer"):
        offload = settings.get("zero_optimization", {}).get(section, {})
        if offload.get("pin_memory") == AUTO:
            offload["pin_memory"] = has_gpu


def _autos(settings: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{name}.")
        elif value == AUTO:
            yield prefix + name
