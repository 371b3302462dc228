"""Batched generation on all ranks: left padding, prompts of like length together, every rank in step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from transformers import GenerationConfig, PreTrainedTokenizerBase

from altpo_ds.engine.distributed import World
from altpo_ds.engine.scorer import SequenceScorer


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedy at temperature 0. `max_length` bounds prompt and answer together."""

    max_new_tokens: int | None = None
    max_length: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1


@torch.no_grad()
def generate(
    scorer: SequenceScorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    world: World,
    batch_size: int,
) -> list[list[list[int]]]:
    """Token ids of `sampling.samples` responses for each prompt of this rank, the end-of-turn token included
    where the model wrote it: a response without one was cut off at the limit.

    All ranks call it together, each with prompts of its own, of any number: under ZeRO-3 every forward pass is
    a collective, so ranks with fewer batches repeat one and drop it.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rounds = torch.tensor(len(batches), device=world.device)
    dist.all_reduce(rounds, op=dist.ReduceOp.MAX)
    results: list[list[list[int]]] = [[] for _ in prompts]
    scorer.use_own_attention()
    scorer.eval()
    for number in range(int(rounds)):
        batch = batches[number] if number < len(batches) else []
        inputs = [prompts[i] for i in batch] or [[int(tokenizer.eos_token_id or 0)]]
        responses = _generate_batch(scorer, tokenizer, inputs, sampling, world)
        for place, i in enumerate(batch):
            results[i] = responses[place * sampling.samples : (place + 1) * sampling.samples]
    scorer.train()
    return results


def _generate_batch(
    scorer: SequenceScorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    world: World,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    ends = _end_tokens(scorer, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    # The limit on prompt and answer holds for each row, so the row with the shortest prompt sets the batch's.
    longest = sampling.max_new_tokens or max(1, (sampling.max_length or 0) - min(len(prompt) for prompt in prompts))
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    config = GenerationConfig(
        max_new_tokens=longest,
        do_sample=bool(sampling.temperature),
        num_return_sequences=sampling.samples,
        eos_token_id=ends,
        pad_token_id=pad,
        **chosen,
    )
    output = scorer.model.generate(
        input_ids=ids.to(world.device),
        attention_mask=mask.to(world.device),
        generation_config=config,
        synced_gpus=world.size > 1,
    )
    assert isinstance(output, torch.Tensor)
    rows = output[:, width:].tolist()
    limits = [
        sampling.max_new_tokens or max(1, (sampling.max_length or 0) - len(prompt))
        for prompt in prompts
        for _ in range(sampling.samples)
    ]
    return [_trim(row[:limit], ends) for row, limit in zip(rows, limits, strict=True)]


def _end_tokens(scorer: SequenceScorer, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's, and those that the model's own configuration names."""
    configured = getattr(scorer.model.generation_config, "eos_token_id", None)
    named = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(int(end) for end in (tokenizer.eos_token_id, *named) if isinstance(end, int)))


def _trim(row: list[int], ends: Sequence[int]) -> list[int]:
    """Up to and with the first end-of-turn token; what follows is padding."""
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
    return row


def decode(tokenizer: PreTrainedTokenizerBase, response: Sequence[int]) -> str:
    """A response as text, without special tokens and outer white space."""
    return str(tokenizer.decode(list(response), skip_special_tokens=True)).strip()
