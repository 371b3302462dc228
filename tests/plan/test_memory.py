"""Bytes by hand for a model of a million parameters, and against DeepSpeed's own estimators."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.deepspeed import deepspeed_file
from altpo_ds.plan.cost import Machine, checkpoint_bytes, flops, seconds, traffic
from altpo_ds.plan.memory import Load, live, memory, peak
from altpo_ds.plan.shape import Shape

# ten matrices of 100,000 of which the first is the embedding and the output layer
SHAPE = Shape((100_000,) * 10, 100_000, 3, 100, 1000, True, 5000, 700, 300)


def settings(name: str) -> dict[str, Any]:
    return json.loads(deepspeed_file(name).read_text())


def load(ranks: int = 4, element: int = 2, **more: Any) -> Load:
    return Load(ranks=ranks, tokens=1000, response_tokens=400, accumulation=2, element=element, **more)


def test_activations_and_logits() -> None:
    parts = memory(SHAPE, settings("zero3"), load(), {}).device
    assert parts["activations"] == 1000 * (3 * 5000 + 700 + 3 * 300)
    assert parts["logits"] == 400 * 1000 * (4 + 2)
    parts = memory(SHAPE, settings("zero3"), load(element=4, checkpointing=True), {}).device
    assert parts["activations"] == 1000 * (3 * 100 * 4 + 5000 + 700 + 3 * 300)
    assert parts["logits"] == 400 * 1000 * 4


def test_logits_stay_within_their_chunk_whatever_the_tokens() -> None:
    many = Load(1, 10**6, 10**6, 1, 4)
    assert memory(SHAPE, settings("zero3_cpu"), many, {}).device["logits"] <= 256 * 2**20


@pytest.mark.parametrize(
    ("name", "element", "device", "host"),
    [
        # of a million elements on four ranks, in units of 250,000: parameters, optimizer, gradients
        ("zero3", 2, {"parameters": 2, "optimizer": 12, "gradients": 2, "gradients of the step": 4}, {}),
        ("zero3_cpu", 4, {"parameters": 4, "optimizer": 8, "gradients": 4, "gradients of the step": 4}, {}),
        ("zero3_offload", 2, {}, {"parameters": 2, "optimizer": 12, "gradients": 2, "gradients of the step": 4}),
        ("zero0", 2, {"parameters": 8, "optimizer": 48, "gradients": 8}, {}),
        ("zero0", 4, {"parameters": 16, "optimizer": 32, "gradients": 16}, {}),
    ],
)
def test_states(name: str, element: int, device: dict[str, int], host: dict[str, int]) -> None:
    found = memory(SHAPE, settings(name), load(element=element), {})
    for expected, parts in ((device, found.device), (host, found.host)):
        assert {key: parts.get(key) for key in expected} == {key: 250_000 * size for key, size in expected.items()}
    assert set(found.host) - {"engine"} == set(host)


def test_an_online_reference_costs_its_shard_and_the_gathered_layer() -> None:
    reference = settings("reference")
    parts = memory(SHAPE, settings("zero3"), load(online_reference=True), reference)
    assert parts.host["reference"] == 2 * 250_000
    assert parts.device["reference gathered"] == 2 * live(SHAPE, reference, backward=False)
    small = reference | {"zero_optimization": reference["zero_optimization"] | {"stage3_prefetch_bucket_size": 0}}
    parts = memory(SHAPE, settings("zero3"), load(online_reference=True), small)
    assert parts.device["reference gathered"] == 2 * 100_000  # nothing is below the persistence threshold


@given(st.integers(1, 8), st.sampled_from(["zero2", "zero3", "zero3_offload", "zero3_cpu"]))
def test_more_ranks_never_need_more_each(doublings: int, name: str) -> None:
    few, many = (memory(SHAPE, settings(name), load(ranks=ranks), {}) for ranks in (2, 2 * 2**doublings))
    assert peak(many.device) <= peak(few.device)
    assert peak(many.host) <= peak(few.host)


def test_states_are_near_deepspeeds_own_estimates() -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    def states(name: str, where: str) -> int:
        parts = getattr(memory(SHAPE, settings(name), load(ranks=8), {}), where)
        kept = ("parameters", "optimizer", "gradients", "gradients of the step")
        return sum(parts.get(part, 0) for part in kept)

    count = SHAPE.parameters
    # DeepSpeed counts 18 bytes an element; float32 gradients, which live in the optimizer step alone, make 20 of 16
    _, gpu, _ = estimate_zero3_model_states_mem_needs(count, 0, 8, 1, cpu_offload=False)
    assert states("zero3", "device") == pytest.approx(gpu, rel=0.12)
    host, _, _ = estimate_zero3_model_states_mem_needs(count, 0, 8, 1, additional_buffer_factor=1.0)
    assert 8 * states("zero3_offload", "host") == pytest.approx(host, rel=0.12)
    _, gpu = estimate_zero2_model_states_mem_needs(count, 8, 1, cpu_offload=False)
    assert states("zero2", "device") == pytest.approx(gpu, rel=0.12)


def test_traffic_of_each_stage() -> None:
    # each moves 3/4 of two bytes of a million elements at a time; two micro-batches a step
    once = 1_500_000
    assert traffic(SHAPE, settings("zero0"), load(), {}).total == 2 * once
    found = traffic(SHAPE, settings("zero2"), load(), {})
    assert (found.gathers, found.reductions) == (once, 2 * once)
    found = traffic(SHAPE, settings("zero3"), load(), {})
    assert (found.gathers, found.reductions) == (2 * once, 2 * once)  # kept from forward to backward
    assert traffic(SHAPE, settings("zero3"), load(ranks=1), {}).total == 0


def test_a_model_beyond_the_reuse_distance_is_gathered_twice() -> None:
    zero = settings("zero3")
    zero["zero_optimization"] |= {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0}
    assert traffic(SHAPE, zero, load(), {}).gathers == 4 * 1_500_000


def test_checkpoint_and_time() -> None:
    assert checkpoint_bytes(SHAPE, settings("zero3"), load()) == 12_000_000
    assert checkpoint_bytes(SHAPE, settings("zero0"), load(element=4)) == 12_000_000
    assert checkpoint_bytes(SHAPE, settings("zero0"), load()) == 14_000_000
    assert flops(SHAPE, load()) == 6 * (900_000 * 1000 + 100_000 * 400)
    machine = Machine(flops=1e9, inside_node=1e6, between_nodes=1e3, disk=1e6)
    moved = traffic(SHAPE, settings("zero3"), load(), {})
    found = seconds(SHAPE, settings("zero3"), load(), moved, machine, ranks_per_node=4)
    assert found.compute == pytest.approx(2 * 6 * 0.94)
    assert found.network == pytest.approx(6.0)
    assert found.step == found.compute  # the network is hidden behind it
    assert found.checkpoint == pytest.approx(12.0)
    assert seconds(SHAPE, settings("zero3"), load(), moved, machine, ranks_per_node=2).network == pytest.approx(6000.0)
