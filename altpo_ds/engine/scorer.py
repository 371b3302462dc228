"""A causal language model that scores responses: packed trees in, log-probabilities of response tokens out."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altpo_ds.data.trees import PackedTrees
from altpo_ds.engine import attention as tree_attention
from altpo_ds.engine import flex
from altpo_ds.objective.log_probs import token_log_probs

log = logging.getLogger(__name__)

TREE_LAYERS = {"full_attention", "sliding_attention"}


class ResponseHead(nn.Module):
    """The model's output projection; given targets it returns their log-probabilities and no logits.

    Takes over the parameters of the original head under the same names.
    """

    def __init__(self, head: nn.Linear, scale: float, softcap: float) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.scale, self.softcap = scale, softcap

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """(N, d) and (N,) -> (N,) log-probabilities; without targets (..., d) -> (..., V) raw logits."""
        if targets is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        return token_log_probs(hidden, self.weight, self.bias, targets, self.scale, self.softcap)


class SequenceScorer(nn.Module):
    """Scores packed trees with one forward pass of `model`."""

    def __init__(self, model: PreTrainedModel, attention: str = "auto") -> None:
        super().__init__()
        self.model = model
        self.attention = attention
        config = model.config.get_text_config()
        self.scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        self.softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Linear), f"the output layer is a {type(head).__name__}, a Linear is expected"
        model.set_output_embeddings(ResponseHead(head, self.scale, self.softcap))
        self.trees = attention != "padded" and supports_trees(model)
        self._own_attention = str(model.config._attn_implementation)
        if attention != "padded" and not self.trees:
            log.warning("%s cannot attend to prefix trees; falling back to padded rows", type(model).__name__)

    def forward(self, packed: PackedTrees, distribution: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the N response tokens (N,) and of the whole vocabulary (M, V) at the response
        tokens whose indices `distribution` (M,) gives; without it (0, V).
        """
        hidden = self._trees(packed) if self.trees else self._padded(packed)
        head = self.model.get_output_embeddings()
        assert head is not None
        log_probs = head(hidden, packed.targets)
        if distribution is None:
            return log_probs, log_probs.new_zeros(0, 1)
        logits = head(hidden[distribution]) * self.scale
        logits = torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits
        return log_probs, torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def _decode(self, **inputs: Any) -> Tensor:
        return self.model.base_model(**inputs, use_cache=False).last_hidden_state

    def _trees(self, packed: PackedTrees) -> Tensor:
        if self._flex(packed.input_ids.device):
            self.use_attention(flex.NAME)
            layout = flex.FlexLayout(packed)
            hidden = self._decode(input_ids=layout.input_ids, position_ids=layout.position, trees=layout)
        else:
            self.use_attention(tree_attention.NAME)
            layout = tree_attention.TreeLayout(packed.spans, packed.input_ids.device)
            hidden = self._decode(input_ids=packed.input_ids, position_ids=packed.position_ids, trees=layout)
        return hidden[0, packed.predictors]

    def _flex(self, device: torch.device) -> bool:
        """FlexAttention has no dropout, and on CPUs no backward pass."""
        dropout = self.training and getattr(self.model.config.get_text_config(), "attention_dropout", 0.0)
        return self.attention == "flex" or (self.attention == "auto" and device.type == "cuda" and not dropout)

    def _padded(self, packed: PackedTrees) -> Tensor:
        """One row per response, padded on the right: no token of a causal model sees the padding, no mask needed."""
        self.use_own_attention()
        ids, rows, columns = unpack(packed)
        return self._decode(input_ids=ids)[rows, columns]

    def use_attention(self, name: str) -> None:
        """Switches the model's attention function; generation needs the model's own."""
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

    def use_own_attention(self) -> None:
        self.use_attention(self._own_attention)


def supports_trees(model: PreTrainedModel) -> bool:
    """Whether every layer is plain or sliding-window attention that takes a function from outside."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or TREE_LAYERS)
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    return bool(model._supports_attention_backend) and layers <= TREE_LAYERS and not sinks


def unpack(packed: PackedTrees) -> tuple[Tensor, Tensor, Tensor]:
    """Padded rows of packed trees: ids (R, L), and row and column (N,) of each predictor."""
    sequences: list[Tensor] = []
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    ids = packed.input_ids[0]
    for span in packed.spans:
        prompt = ids[span.start : span.start + span.prompt]
        start = span.start + span.prompt
        for branch in span.branches:
            rows.append(torch.full((branch + 1,), len(sequences)))
            columns.append(torch.arange(span.prompt - 1, span.prompt + branch))
            sequences.append(torch.cat([prompt, ids[start : start + branch]]))
            start += branch
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    return padded, torch.cat(rows).to(ids.device), torch.cat(columns).to(ids.device)
