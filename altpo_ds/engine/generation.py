"""Batched generation on all ranks: left padding, prompts of like length together.

A whole copy of the model on each rank generates without any communication; where it does not fit, the ranks
generate under ZeRO-3, in step.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from altpo_ds.engine import preemption
from altpo_ds.engine.copies import fits, whole_copy
from altpo_ds.engine.decoding import Decoder, Sampling
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.engine.scorer import SequenceScorer


def generate(
    scorer: SequenceScorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    world: World,
    batch_size: int,
    seeds: Sequence[Sequence[int]] | None = None,
) -> list[list[list[int]]]:
    """Token ids of `sampling.samples` responses for each prompt of this rank, the end-of-turn token included
    where the model wrote it: a response without one was cut off at the limit.

    All ranks call it together, each with prompts of its own, of any number. A sample is its seed's; none given
    are drawn with torch's.
    """
    batches = by_length(prompts, batch_size)
    results: list[list[list[int]]] = [[] for _ in prompts]
    with generator(scorer, tokenizer, world) as decode_batch:
        for number in range(max(gather_objects(len(batches)))):
            preemption.pulse(world)
            batch = batches[number] if number < len(batches) else []
            # Under ZeRO-3 a forward pass is a collective: ranks with fewer batches repeat a dummy and drop it.
            if not batch and not decode_batch.in_step:
                continue
            drawn = (
                [seeds[i] for i in batch]
                if seeds is not None
                else torch.randint(2**62, (len(batch), sampling.samples)).tolist()
            )
            responses = decode_batch([prompts[i] for i in batch], sampling, drawn)
            for i, of_prompt in zip(batch, responses, strict=False):
                results[i] = of_prompt
    return results


def by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Indices of prompts in batches, those of like length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@contextlib.contextmanager
def generator(scorer: SequenceScorer, tokenizer: PreTrainedTokenizerBase, world: World) -> Iterator[Decoder]:
    """A decoder of single batches, for as long as the scorer's weights stay what they are. All ranks open it together.

    Where its `in_step` is true, all ranks call it the same number of times.
    """
    training = scorer.training
    scorer.use_own_attention()
    scorer.eval()
    sharded = any(hasattr(parameter, "ds_id") for parameter in scorer.parameters())
    if sharded and all(gather_objects(fits(scorer.model, world))):
        yield Decoder(whole_copy(scorer.model, world.device), tokenizer, world.device)
    else:
        yield Decoder(scorer.model, tokenizer, world.device, in_step=sharded and world.size > 1)
    scorer.train(training)


def decode(tokenizer: PreTrainedTokenizerBase, response: Sequence[int]) -> str:
    """A response as text, without special tokens and outer white space."""
    return str(tokenizer.decode(list(response), skip_special_tokens=True)).strip()
