"""Decodes one batch token by token: a prompt is computed once for all its samples, and finished rows leave the batch.

Every sample draws from a random stream of its own, so that it depends on its seed and not on its neighbours.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

TAIL = 16  # tokens of a row in which a new stop text is looked for


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0. `max_length` bounds prompt and answer together."""

    max_new_tokens: int | None = None
    max_length: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    stop: tuple[str, ...] = ()  # texts that end a response, beside the end-of-turn tokens

    def limit(self, prompt: Sequence[int]) -> int:
        return self.max_new_tokens or max(1, (self.max_length or 0) - len(prompt))


@dataclass(frozen=True)
class _Batch:
    """Rows that still grow. `places` tells which response each one is."""

    places: list[int]
    ids: Tensor  # (R, L) prompt and response so far, padded on the left
    mask: Tensor  # (R, L)
    logits: Tensor  # (R, V) of the next token
    cache: DynamicCache

    def select(self, rows: Sequence[int]) -> "_Batch":
        index = torch.tensor(rows, device=self.ids.device)
        self.cache.reorder_cache(index)  # pyright: ignore[reportArgumentType]
        places = [self.places[row] for row in rows]
        return _Batch(places, self.ids[index], self.mask[index], self.logits[index], self.cache)


class Decoder:
    """A model's sampling loop. With `in_step` each forward pass is one of all ranks, whether or not rows are left."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device, in_step: bool = False
    ) -> None:
        self.model, self.tokenizer, self.device, self.in_step = model, tokenizer, device, in_step
        self.ends = end_tokens(model, tokenizer)
        self.pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else self.ends[0]
        self._accepted = inspect.signature(model.forward).parameters

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[list[int]]]:
        """For each prompt one response per seed: token ids, up to and with the end-of-turn token or a stop text."""
        prompts, seeds = (prompts, seeds) if prompts else ([self.ends[:1]], [[0]])  # an idle rank's dummy
        owners = [i for i, of_prompt in enumerate(seeds) for _ in of_prompt]
        limits = [sampling.limit(prompts[owner]) for owner in owners]
        responses: list[list[int]] = [[] for _ in owners]
        done = [False] * len(owners)
        draws = _uniforms([seed for of_prompt in seeds for seed in of_prompt], max(limits)).to(self.device)
        processors = self._processors(sampling)
        batch = replace(self._prefill(prompts).select(owners), places=list(range(len(owners))))
        for step in range(max(limits)):
            scores = processors(batch.ids, batch.logits.float())  # pyright: ignore[reportArgumentType]
            tokens = choose(scores, draws[batch.places, step]) if sampling.temperature else scores.argmax(-1)
            for place, token in zip(batch.places, tokens.tolist(), strict=True):
                if not done[place]:
                    responses[place].append(token)
                    done[place] = len(responses[place]) == limits[place] or self._ended(responses[place], sampling)
            growing = [row for row, place in enumerate(batch.places) if not done[place]]
            if not self._any(bool(growing)):
                break
            if len(growing) < len(batch.places):
                rows = growing or [0]  # an idle row, whose tokens go nowhere, keeps this rank in step
                batch, tokens = batch.select(rows), tokens[rows]
            batch = self._advance(batch, tokens)
        grouped: list[list[list[int]]] = [[] for _ in prompts]
        for owner, response in zip(owners, responses, strict=True):
            grouped[owner].append(response)
        return grouped

    def _any(self, here: bool) -> bool:
        """Whether this rank, or in step any rank, has rows that grow."""
        if not self.in_step:
            return here
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag)
        return bool(flag > 0)

    def _ended(self, response: list[int], sampling: Sampling) -> bool:
        if response[-1] in self.ends:
            return True
        tail = self.tokenizer.decode(response[-TAIL:]) if sampling.stop else ""
        return any(text in tail for text in sampling.stop)

    def _processors(self, sampling: Sampling) -> LogitsProcessorList:
        """The checkpoint's own repetition penalty, as in `transformers`, then temperature and nucleus."""
        processors = LogitsProcessorList()
        penalty = getattr(self.model.generation_config, "repetition_penalty", None)
        if penalty is not None and penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        if sampling.temperature and sampling.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.temperature and sampling.top_p < 1.0:
            processors.append(TopPLogitsWarper(sampling.top_p))
        return processors

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> _Batch:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(ids, mask, positions, cache)
        return _Batch(list(range(len(prompts))), ids, mask, logits, cache)

    def _advance(self, batch: _Batch, tokens: Tensor) -> _Batch:
        tokens = tokens[:, None]
        ids, mask = torch.cat([batch.ids, tokens], -1), torch.cat([batch.mask, torch.ones_like(tokens)], -1)
        logits = self._forward(tokens, mask, mask.sum(-1, keepdim=True) - 1, batch.cache)
        return _Batch(batch.places, ids, mask, logits, batch.cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (R, V) after the last of the new tokens `ids`; `mask` covers the cached ones too."""
        extra: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        extra = {name: value for name, value in extra.items() if name in self._accepted}
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return output.logits[:, -1]


def _uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """(R, length) numbers in [0, 1), each row from its own seed."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def choose(scores: Tensor, draws: Tensor) -> Tensor:
    """Tokens (R,) at the quantiles `draws` (R,) of the distributions softmax(scores) (R, V)."""
    cumulative = torch.softmax(scores, -1).cumsum(-1)
    wanted = draws[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    # Rounding may put the quantile on the total itself; the last token with any chance is then meant.
    last = (cumulative < cumulative[:, -1:]).sum(-1).clamp(max=scores.shape[-1] - 1)
    return torch.minimum(torch.searchsorted(cumulative, wanted, right=True)[:, 0], last)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's, and those that the model's own configuration names."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(int(end) for end in (tokenizer.eos_token_id, *named) if isinstance(end, int)))
