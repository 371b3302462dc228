"""What DeepSpeed's ZeRO-3 is told about a model, and spared of, so that it does not cost more than it must."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def by_layer(deepspeed: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Gathers and reduces a decoder layer as one, where it is no larger than what is fetched ahead anyway.

    One hook a layer instead of one for each of its modules, and fewer, larger messages. A file's own leaf_module stays.
    """
    zero = deepspeed.get("zero_optimization", {})
    classes = sorted(model._no_split_modules or [])
    layers = [module for module in model.modules() if type(module).__name__ in classes]
    largest = max((sum(_numel(parameter) for parameter in layer.parameters()) for layer in layers), default=0)
    if zero.get("stage") != 3 or "leaf_module" in zero or not 0 < largest <= zero["stage3_prefetch_bucket_size"]:
        return deepspeed
    return deepspeed | {"zero_optimization": zero | {"leaf_module": {"classes": classes}}}


def _numel(parameter: Tensor) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def reduce_nothing(optimizer: Any) -> None:
    """For a lone rank: gradients go into its partition as they are, by no bucket and no collective."""

    def partitions(parameters: list[Tensor], _: torch.dtype) -> list[Tensor]:
        return [parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None]

    optimizer.contiguous_gradients = False
    optimizer._DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads = partitions
