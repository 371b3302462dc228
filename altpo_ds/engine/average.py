"""A moving average of a model in training; under ZeRO-3 each rank keeps that of its own shards."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from altpo_ds.config.errors import UserError
from altpo_ds.engine import elastic
from altpo_ds.engine.distributed import World
from altpo_ds.engine.scorer import SequenceScorer


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights, in float32."""

    def __init__(self, scorer: SequenceScorer, decay: float) -> None:
        self.decay = decay
        self._parameters = list(scorer.parameters())
        self._average = [_shard(parameter).detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """To be called after each optimizer step."""
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(_shard(parameter).float(), 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again afterwards."""
        kept = [_shard(parameter).detach().clone() for parameter in self._parameters]
        self._set(self._average)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for value, parameter in zip(values, self._parameters, strict=True):
            if hasattr(parameter, "ds_id") and parameter.data.numel() == parameter.ds_numel:  # pyright: ignore
                parameter.partition()  # pyright: ignore[reportAttributeAccessIssue]  # whole now: gathered anew when used
            _shard(parameter).copy_(value)

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        for average, saved in zip(self._average, state["average"], strict=True):
            average.copy_(saved)

    def load_shards(self, states: Sequence[dict[str, list[Tensor]]], world: World) -> None:
        """From the states of all ranks of a run on another number of ranks or at another ZeRO stage."""
        shards = zip(*(state["average"] for state in states), strict=True)
        for average, parameter, parts in zip(self._average, self._parameters, shards, strict=True):
            numel = getattr(parameter, "ds_numel", parameter.numel())
            whole = torch.cat([part.flatten() for part in parts])[:numel]
            if hasattr(parameter, "ds_id"):
                whole = elastic.part(whole, world.rank, world.size)
            average.copy_(whole.view_as(average))


def _shard(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter."""
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    shard = parameter.ds_tensor  # pyright: ignore[reportAttributeAccessIssue]
    if shard.numel() == 0:
        raise UserError("alternates.refresh_average: the parameters are offloaded to NVMe; set it to 0")
    return shard
