"""Batched generation on all ranks: left padding, prompts of like length together.

A whole copy of the model on each rank generates without any communication; where it does not fit, the ranks
generate under ZeRO-3, in step.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from altpo_ds.engine.distributed import World, gather_objects
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

    All ranks call it together, each with prompts of its own, of any number.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    results: list[list[list[int]]] = [[] for _ in prompts]
    ends = _end_tokens(scorer.model, tokenizer)
    with _generator(scorer, world) as (model, in_step):
        # Under ZeRO-3 a forward pass is a collective: ranks with fewer batches repeat a dummy and drop it.
        rounds = max(gather_objects(len(batches))) if in_step else len(batches)
        for number in range(rounds):
            batch = batches[number] if number < len(batches) else []
            inputs = [prompts[i] for i in batch] or [ends[:1]]
            pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else ends[0]
            responses = _generate_batch(model, inputs, sampling, world.device, ends, pad, in_step)
            for place, i in enumerate(batch):
                results[i] = responses[place * sampling.samples : (place + 1) * sampling.samples]
    return results


@contextlib.contextmanager
def _generator(scorer: SequenceScorer, world: World) -> Iterator[tuple[PreTrainedModel, bool]]:
    """The model to generate with, and whether all ranks must run each forward pass together."""
    training = scorer.training
    scorer.use_own_attention()
    scorer.eval()
    sharded = any(hasattr(parameter, "ds_id") for parameter in scorer.parameters())
    if sharded and all(gather_objects(_fits(scorer.model, world))):
        yield _whole_copy(scorer.model, world.device), False
    else:
        yield scorer.model, sharded and world.size > 1
    scorer.train(training)


def _fits(model: PreTrainedModel, world: World) -> bool:
    """Whether a copy takes at most half of the memory that is free for this rank."""
    size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in model.parameters())
    if world.device.type == "cuda":
        return size <= torch.cuda.mem_get_info(world.device)[0] / 2
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return size <= psutil.virtual_memory().available / 2 / ranks_here


def _whole_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
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


def _generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    device: torch.device,
    ends: list[int],
    pad: int,
    in_step: bool,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    # The limit on prompt and answer holds for each row: the shortest prompt sets the batch's, rows are cut below.
    limits = [sampling.max_new_tokens or max(1, (sampling.max_length or 0) - len(prompt)) for prompt in prompts]
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    config = GenerationConfig(
        max_new_tokens=max(limits),
        do_sample=bool(sampling.temperature),
        num_return_sequences=sampling.samples,
        eos_token_id=ends,
        pad_token_id=pad,
        **chosen,
    )
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    output = model.generate(**inputs, generation_config=config, synced_gpus=in_step)  # pyright: ignore[reportCallIssue]
    assert isinstance(output, torch.Tensor)
    rows = output[:, width:].tolist()
    row_limits = [limit for limit in limits for _ in range(sampling.samples)]
    return [_trim(row[:limit], ends) for row, limit in zip(rows, row_limits, strict=True)]


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's, and those that the model's own configuration names."""
    configured = getattr(model.generation_config, "eos_token_id", None)
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
