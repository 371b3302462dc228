"""What a model's configuration says of its size: parameters, and what a token leaves behind for the backward pass.

The model is built without memory (torch's meta device); saved tensors are counted by autograd itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from altpo_ds.config.errors import UserError

ATTENTION = "altpo_plan"
TOKENS = 64  # of the passes that are counted; all counts are linear in it


@dataclass(frozen=True)
class Shape:
    """Elements of a model, and bytes that a token keeps until the backward pass.

    `inside` one layer; `outside` the layers: embedding, final norm, rotary tables; `widest`: the largest of them.
    """

    numels: tuple[int, ...]  # of every parameter, shared ones once
    largest_module: int  # elements that one module needs at a time, which ZeRO-3 gathers together
    layers: int
    hidden: int
    vocabulary: int
    tied: bool
    inside: int
    outside: int
    widest: int

    @property
    def parameters(self) -> int:
        return sum(self.numels)

    @property
    def projection(self) -> int:
        """Elements of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def body(self) -> int:
        """Elements that multiply every token: neither the input embedding nor the output layer."""
        return self.parameters - self.projection * (1 if self.tied else 2)


def model_shape(path: str, dtype: torch.dtype, gpu: bool) -> Shape:
    """The shape of the model at `path`, a directory or a hub name; only its configuration is read.

    `gpu`: attention kernels take grouped keys as they are, where the one on CPUs repeats them. Raises UserError.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        model = _build(config, None, dtype)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.path = '{path}': no configuration of a causal language model: {error}") from error
    text = config.get_text_config()
    counts = [_saved(_build(config, layers, dtype), gpu) for layers in (1, 2)]
    (one, widest), (two, _) = counts
    return Shape(
        numels=tuple(p.numel() for p in model.parameters()),
        largest_module=max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,  # pyright: ignore[reportOptionalMemberAccess]
        inside=(two - one) // TOKENS,
        outside=max(0, 2 * one - two) // TOKENS,
        widest=widest // TOKENS,
    )


def _build(config: Any, layers: int | None, dtype: torch.dtype) -> PreTrainedModel:
    config = type(config).from_dict(config.to_dict())
    text = config.get_text_config()
    if layers is not None:
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _saved(model: PreTrainedModel, gpu: bool) -> tuple[int, int]:
    """Bytes that autograd keeps of a pass over TOKENS tokens up to the last hidden states, and the largest of them."""
    _Kernel.grouped = gpu
    model.set_attn_implementation(ATTENTION)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            kept.setdefault(key, tensor)
        return tensor

    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.base_model(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state
    keep(hidden)
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    return sum(sizes), max(sizes)


class _Kernel(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: query, key, value, output, and a row's normalizer."""

    grouped = True

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


def _attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    if not _Kernel.grouped and (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return _Kernel.apply(query, key, value).transpose(1, 2), None  # pyright: ignore[reportOptionalMemberAccess]


AttentionInterface.register(ATTENTION, _attention)
