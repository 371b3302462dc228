"""A whole copy of a sharded model on each rank, where it fits: for work that needs no communication."""

import os

import psutil
import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from altpo_ds.engine.distributed import World


def fits(model: PreTrainedModel, world: World) -> bool:
    """Whether a copy takes at most half of the memory that is free for this rank."""
    size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in model.parameters())
    if world.device.type == "cuda":
        return size <= torch.cuda.mem_get_info(world.device)[0] / 2
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return size <= psutil.virtual_memory().available / 2 / ranks_here


def whole_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A plain model with the sharded one's parameters, gathered one at a time."""
    import deepspeed

    with no_init_weights():
        copy = type(model)(model.config).to(device=device, dtype=model.dtype)  # pyright: ignore[reportCallIssue]
    copy.tie_weights()  # left out with the initialization
    copy.generation_config = model.generation_config
    targets = dict(copy.named_parameters())
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            targets[name].data.copy_(parameter.data)
    return copy.eval()
