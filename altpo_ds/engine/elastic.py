"""Continuing from a checkpoint of another layout: another number of ranks, ZeRO stage, offload or optimizer class.

Each parameter and its two Adam moments are put together from the shards that hold them, one at a time, and each rank
takes its part. DeepSpeed's universal checkpoints would do for another number of ranks at the same stage: they need a
second copy on disk, a checkpoint of stage 3 cannot be loaded at stage 1 or 2, and at stage 3 all parameter groups get
the weight decay of the first one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from altpo_ds.config.errors import UserError
from altpo_ds.engine import trust

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHTS = "fp32"
NAMES = "optimizer_names"  # client state of a checkpoint: parameter names in the optimizer's order


@dataclass(frozen=True)
class SavedStates:
    """The optimizer's view of a saved model. `flat(name, key)` is the whole of a parameter's float32 weights or of
    one of its moments, as (numel,).
    """

    flat: Callable[[str, str], Tensor]
    step: int
    common: dict[str, Any]  # schedule and counters, as DeepSpeed saved them
    scaler: dict[str, Any]  # of the loss, at stages 1 to 3


def read(folder: Path) -> SavedStates:
    """Opens the ZeRO shards in `folder`; tensors are read when they are used. UserError for what is not supported."""
    shards = [trust.load(file)["optimizer_state_dict"] for file in _by_rank(folder, "*_optim_states.pt")]
    common = trust.load(_by_rank(folder, "*_model_states.pt")[0])
    if (folder / "offloaded_tensors").exists():
        raise UserError(f"checkpoint '{folder.parent}' keeps optimizer states of NVMe: continue on the ranks of before")
    if not shards:
        return _whole(common, folder)
    scaler = {key: shards[0][key] for key in ("loss_scaler", "dynamic_loss_scale", "overflow") if key in shards[0]}
    flat, step = (_stage3 if "fp32_flat_groups" in shards[0] else _stage12)(shards, common)
    return SavedStates(flat, step, common, scaler)


def _stage3(shards: list[dict[str, Any]], common: dict[str, Any]) -> tuple[Callable[[str, str], Tensor], int]:
    """Stage 3: of each parameter every rank holds one part of equal size, the last one padded."""
    places: dict[str, tuple[int, int, int]] = {}  # group, numel, offset within every rank's group
    for group, shapes in enumerate(common["param_shapes"]):
        offset = 0
        for name, shape in shapes.items():
            places[name] = group, shape.numel(), offset
            offset += part_size(shape.numel(), len(shards))
    states = [shard["optimizer_state_dict"]["state"] for shard in shards]

    def flat(name: str, key: str) -> Tensor:
        group, numel, offset = places[name]
        parts = [
            shard["fp32_flat_groups"][group] if key == WEIGHTS else state[group][key]
            for shard, state in zip(shards, states, strict=True)
        ]
        return torch.cat([part[offset : offset + part_size(numel, len(shards))] for part in parts])[:numel]

    return flat, int(states[0][0]["step"])


def _stage12(shards: list[dict[str, Any]], common: dict[str, Any]) -> tuple[Callable[[str, str], Tensor], int]:
    """Stages 1 and 2: the parameters of a group one after the other, cut into as many equal parts as ranks."""
    groups = {name: group for group, shapes in enumerate(_groups(common)) for name in shapes}
    states = [shard["base_optimizer_state"]["state"] for shard in shards]

    def flat(name: str, key: str) -> Tensor:
        group = groups[name]
        parts: list[Tensor] = []
        for shard, state in zip(shards, states, strict=True):
            if (at := shard["param_slice_mappings"][group].get(name)) is not None:
                whole = shard["single_partition_of_fp32_groups"][group] if key == WEIGHTS else state[group][key]
                parts.append(whole[at.start : at.start + at.numel])
        return torch.cat(parts)

    return flat, int(states[0][0]["step"])


def _groups(common: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = common["param_shapes"]
    return shapes if isinstance(shapes, list) else [shapes]


def _whole(common: dict[str, Any], folder: Path) -> SavedStates:
    """Stage 0: the optimizer's state dict is that of torch."""
    optimizer = common["optimizer"]
    if NAMES not in common or "state" not in optimizer:
        raise UserError(
            f"checkpoint '{folder.parent}' is of stage 0 in half precision; continue on the ranks of before"
        )
    states = {name: optimizer["state"][number] for number, name in enumerate(common[NAMES])}

    def flat(name: str, key: str) -> Tensor:
        return (common["module"][name] if key == WEIGHTS else states[name][key]).flatten().float()

    return SavedStates(flat, int(next(iter(states.values()))["step"]), common, {})


def restore(engine: Any, saved: SavedStates) -> None:
    """Puts saved weights, moments, schedule and counters into a DeepSpeed engine that has not trained yet."""
    zero = engine.optimizer
    inner = getattr(zero, "optimizer", zero)
    sharded = hasattr(zero, "fp32_partitioned_groups_flat")
    if zero is not inner and not sharded and not hasattr(zero, "update_lp_params"):
        raise UserError("stage 0 in half precision continues only its own checkpoints; set engine.deepspeed to zero3")
    for flat in _optimized(zero):
        inner.state[flat] = _state(inner, flat, saved.step)
    if not sharded and hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._lazy_init_hp_params_optimizer_state()
    with torch.no_grad():
        for name, parameter in optimized_parameters(engine.module):
            for key in (WEIGHTS, *MOMENTS):
                _put(inner, parameter, key, saved.flat(name, key))
    _weights_from_masters(zero, sharded)
    for key, value in saved.scaler.items():
        if hasattr(zero, key):
            setattr(zero, key, value)
    engine.lr_scheduler.load_state_dict(saved.common["lr_scheduler"])
    for group, lr in zip(inner.param_groups, engine.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = lr
    engine.global_steps = saved.common["global_steps"]
    engine.global_samples = saved.common["global_samples"]
    engine.skipped_steps = saved.common["skipped_steps"]


def optimized_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that train, a shared one once."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def part_size(numel: int, ranks: int) -> int:
    """Elements of a parameter's part at stage 3."""
    return -(-numel // ranks)


def part(flat: Tensor, rank: int, ranks: int) -> Tensor:
    """(numel,) -> (part_size,): a rank's part of a parameter at stage 3, zeros behind the end."""
    size = part_size(flat.numel(), ranks)
    found = flat[rank * size : (rank + 1) * size]
    return nn.functional.pad(found, (0, size - found.numel()))


def _by_rank(folder: Path, pattern: str) -> list[Path]:
    def rank(file: Path) -> int:
        found = re.search(r"pp_rank_(\d+)", file.name)
        return int(found[1]) if found else 0

    return sorted(folder.glob(pattern), key=rank)


def _optimized(zero: Any) -> list[Tensor]:
    """The tensors that the inner optimizer steps on."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3 names them to the optimizer only while it steps
        return list(zero.fp32_partitioned_groups_flat)
    return [parameter for group in zero.param_groups for parameter in group["params"]]


def _state(inner: Any, flat: Tensor, step: int) -> dict[str, Any]:
    """A state as the optimizer makes it: torch counts its steps in a tensor, DeepSpeed's in an int."""
    if isinstance(inner, torch.optim.AdamW):
        device = flat.device if inner.defaults["fused"] else torch.device("cpu")
        counted: Any = torch.tensor(float(step), device=device)
    else:
        counted = step
    return {"step": counted, **{key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in MOMENTS}}


def _put(inner: Any, parameter: Any, key: str, flat: Tensor) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if hasattr(parameter, "ds_id"):
        zero = parameter._z3_optimizer
        rank, ranks = zero._get_param_partition_rank(parameter), zero._get_param_partition_world_size(parameter)
        mine = part(flat, rank, ranks)
        if key == WEIGHTS:
            safe_set_local_fp32_param(parameter, mine)
        else:
            safe_set_local_optimizer_state(parameter, mine, key)
    elif hasattr(parameter, "_hp_mapping"):
        if key == WEIGHTS:
            safe_set_full_fp32_param(parameter, flat)
        else:
            safe_set_full_optimizer_state(parameter, flat, key)
    else:
        target = parameter if key == WEIGHTS else inner.state[parameter][key]
        target.copy_(flat.view_as(target))


def _weights_from_masters(zero: Any, sharded: bool) -> None:
    """The weights that the model computes with, from the optimizer's float32 ones."""
    if sharded:  # DeepSpeed does it when it loads a state, so let it load the one that it has
        zero.load_state_dict([zero.state_dict()] * torch.distributed.get_world_size())
        zero.checkpoint_event_epilogue()
    elif hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
