"""Bytes by hand for a model of a million parameters, and against DeepSpeed's own estimators.

That real runs take what is predicted is measured by benchmarks/plan.py.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.deepspeed import deepspeed_file
from altpo_ds.plan.cost import Machine, checkpoint_bytes, flops, seconds, traffic
from altpo_ds.plan.held import PHASES, Parts, on_cpu, peak
from altpo_ds.plan.load import Load, activations
from altpo_ds.plan.memory import memory, reductions
from altpo_ds.plan.shape import Shape

# ten matrices of 100,000 of which the first is the embedding and the output layer
SHAPE = Shape((100_000,) * 10, 100_000, 3, 100, 1000, True, 5000, 700, 300)


def settings(name: str) -> dict[str, Any]:
    return json.loads(deepspeed_file(name).read_text())


def load(ranks: int = 4, element: int = 2, **more: Any) -> Load:
    return Load(ranks=ranks, tokens=1000, response_tokens=400, accumulation=2, element=element, **more)


def device(name: str, phase: str, load: Load, **zero: Any) -> Parts:
    changed = settings(name)
    changed["zero_optimization"] |= zero
    return memory(SHAPE, changed, load, {}).device[phase]


def test_activations_and_what_the_backward_pass_works_with() -> None:
    parts = device("zero3", "backward", load())
    assert parts["activations"] == device("zero3", "forward", load())["activations"] == 1000 * (3 * 5000 + 700)
    assert parts["at work"] == 400 * 1000 * (4 + 2)  # logits in float32 and in the parameters' type
    assert device("zero3", "backward", load(distribution_tokens=10))["at work"] == 2_400_000 + 3 * 10 * 1000 * 4
    parts = device("zero3", "backward", load(element=4, checkpointing=True))
    assert parts["activations"] == 1000 * (3 * 100 * 4 + 700)
    assert parts["at work"] == 1000 * (5000 + 3 * 300)  # a layer recomputed is more than 1.6 MB of logits
    assert device("zero3", "backward", load(element=4, onednn=True))["at work"] == 400 * 1000 * (4 + 4)


def test_logits_stay_within_their_chunk_whatever_the_tokens() -> None:
    many = Load(1, 1, 10**6, 1, 4)
    assert device("zero3_cpu", "backward", many)["at work"] <= 256 * 2**20


@pytest.mark.parametrize(
    ("name", "element", "device", "host"),
    [
        # of a million elements on four ranks, in units of 250,000: parameters, optimizer, gradients
        ("zero3", 2, {"parameters": 2, "optimizer": 12, "gradients": 2, "gradients of the step": 4}, {}),
        ("zero3_cpu", 4, {"parameters": 4, "optimizer": 12, "gradients": 4, "gradients of the step": 4}, {}),
        ("zero3_offload", 2, {}, {"parameters": 2, "optimizer": 12, "gradients": 2, "gradients of the step": 4}),
        ("zero0", 2, {"parameters": 8, "optimizer": 48, "gradients": 8, "copies of gradients": 16}, {}),
        ("zero0", 4, {"parameters": 16, "optimizer": 32, "gradients": 16, "copies of gradients": 0}, {}),
    ],
)
def test_states_in_the_update(name: str, element: int, device: Parts, host: Parts) -> None:
    found = memory(SHAPE, settings(name), load(element=element), {})
    for expected, parts in ((device, found.device["update"]), (host, found.host["update"])):
        assert {key: parts.get(key) for key in expected} == {key: 250_000 * size for key, size in expected.items()}
    assert set(found.host["update"]) - {"engine"} == set(host)


def test_stage_0_averages_flat_copies_after_the_backward_pass() -> None:
    parts = device("zero0", "reduction", load(element=4))
    assert (parts["gradients"], parts["copies of gradients"]) == (4_000_000, 4_000_000)
    assert "activations" not in parts
    alone = device("zero0", "reduction", load(ranks=1, element=4))
    assert alone["copies of gradients"] == 400_000  # the second gradient of the tied embedding
    # of two micro-batches the second finds the first's gradients; the output layer's comes first
    assert device("zero0", "backward", load(element=4))["gradients"] == 4_400_000


def test_buckets_go_when_the_next_gradient_does_not_fit() -> None:
    zero = settings("zero2")
    zero["zero_optimization"]["reduce_bucket_size"] = 300_000
    found = list(reductions(SHAPE, zero))
    assert found == [
        (0, 300_000, 100_000),
        (300_000, 300_000, 100_000),
        (600_000, 300_000, 100_000),
        (900_000, 100_000, 0),
    ]
    large = Shape((500_000, 100_000, 400_000), 500_000, 1, 100, 1000, False, 1, 1, 1)
    assert list(reductions(large, zero)) == [(0, 400_000, 100_000), (400_000, 100_000, 500_000), (500_000, 500_000, 0)]


def test_stage_2_averages_a_bucket_while_activations_remain() -> None:
    parts = device("zero2", "reduction", load(), reduce_bucket_size=300_000)
    # the first bucket: six of nine layers to come, the layer at work, two buffers, the gradient that did not fit
    assert parts["activations"] == 15_700_000 * 6 // 9 + 900_000
    assert parts["buckets"] == 2 * 2 * 300_000
    assert parts["gradients"] == 2 * 100_000
    # the flat copy makes room for three whole gradients: a share of 250,000 has parts of them
    assert parts["copies of gradients"] == 2 * 300_000
    earlier = device("zero2", "backward", load())["earlier gradients"]
    assert earlier == 2 * 300_000  # of the first of two micro-batches


def test_buffers_count_whole_on_a_gpu_and_as_written_on_a_cpu() -> None:
    assert device("zero2", "backward", load())["buckets"] == 2 * 2 * 100_000_000
    cpu = load(element=4, cpu=True)
    assert "buckets" not in device("zero2", "backward", cpu)
    parts = device("zero2", "reduction", cpu)
    assert parts == parts | {"activations": 0, "buckets": 4_000_000, "copies of gradients": 4_000_000, "gradients": 0}
    parts = device("zero2", "reduction", load(ranks=1, element=4, cpu=True))
    assert parts["copies of gradients"] == 4_000_000  # nothing to average: the rank's own, all of them
    assert device("zero3", "update", load())["buckets"] == 2 * 100_000_000
    assert device("zero3", "update", cpu)["buckets"] == 4_000_000


def test_stage_2_updates_a_flat_copy_and_gathers_through_gloo() -> None:
    parts = device("zero2", "update", load(element=4, cpu=True))
    assert parts["gradients"] == 4 * 300_000
    assert parts["copies of gradients"] == 4 * 250_000
    assert device("zero2", "update", load())["copies of gradients"] == (2 + 4) * 250_000
    many = device("zero2", "update", load(ranks=10))
    assert many["copies of gradients"] == 8 * 100_000  # a norm in float64
    assert device("zero2", "gather", load(element=4, cpu=True))["messages"] == 4_000_000
    assert "messages" not in device("zero2", "gather", load())


def test_stage_1_keeps_whole_gradients_until_the_last_micro_batch() -> None:
    assert device("zero2", "backward", load(), stage=1)["earlier gradients"] == 2 * 1_000_000
    parts = device("zero2", "reduction", load(), stage=1, reduce_bucket_size=300_000)
    assert (parts["activations"], parts["gradients"]) == (0, 2 * (300_000 + 400_000))  # the second bucket


def test_stage_2_offloads_its_optimizer() -> None:
    offloaded = settings("zero2")
    offloaded["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    found = memory(SHAPE, offloaded, load(), {})
    assert found.host["backward"]["optimizer"] == 12 * 250_000
    assert found.host["backward"]["step"] == (4 + 2) * 250_000
    assert "gradients" not in found.device["update"]


def test_stage_3_gathers_reduces_and_what_gloo_copies() -> None:
    cpu = load(element=4, cpu=True)
    assert device("zero3_cpu", "forward", cpu)["messages"] == 4_000_000  # all fetched ahead
    assert device("zero3_cpu", "forward", cpu, stage3_prefetch_bucket_size=0)["messages"] == 400_000
    parts = device("zero3_cpu", "reduction", cpu)
    assert (parts["copies of gradients"], parts["messages"]) == (4_000_000, 4_000_000)
    assert device("zero3", "reduction", load())["messages"] == 0
    parts = device("zero3", "reduction", load(), reduce_bucket_size=300_000)
    assert parts["gathered"] == 2 * 700_000
    assert parts["activations"] == 15_700_000 * 6 // 9 + 900_000
    # a lone rank's shard is the parameter, unless it lies on the host of a GPU
    assert device("zero3", "forward", load(ranks=1))["gathered"] == 0
    assert device("zero3_offload", "forward", load(ranks=1))["gathered"] == 2_000_000


def test_the_peak_is_that_of_the_highest_phase() -> None:
    found = on_cpu(memory(SHAPE, settings("zero2"), load(ranks=1, element=4, cpu=True), {}))
    assert not any(found.device[phase] for phase in PHASES)
    one = activations(SHAPE, load(element=4)) + 400 * 1000 * 4 + 4 * 100_000 + 4_000_000  # of two micro-batches
    assert peak(found.host) == 2 * 2**20 + 4_000_000 + 12_000_000 + one


def test_an_online_reference_costs_its_shard_and_the_gathered_layer() -> None:
    reference = settings("reference")
    parts = memory(SHAPE, settings("zero3"), load(online_reference=True), reference)
    assert parts.host["forward"]["reference"] == 2 * 250_000
    assert parts.device["backward"]["reference gathered"] == 2 * 200_000  # a matrix and the next one

    def gathered(bucket: int, **more: Any) -> int:
        changed = {"zero_optimization": reference["zero_optimization"] | {"stage3_prefetch_bucket_size": bucket}}
        parts = memory(SHAPE, settings("zero3"), load(online_reference=True, **more), changed)
        return parts.device["backward"].get("reference gathered", 0)

    # whole matrices are fetched ahead until they fill the bucket
    assert [gathered(bucket) for bucket in (0, 100_000, 100_001, 10**7)] == [200_000, 400_000, 600_000, 2_000_000]
    assert gathered(0, cpu=True) == 2 * 200_000  # and gloo's copy
    assert gathered(0, cpu=True, ranks=1) == 0


@given(st.integers(1, 8), st.sampled_from(["zero2", "zero3", "zero3_offload", "zero3_cpu"]))
def test_more_ranks_never_need_more_each(doublings: int, name: str) -> None:
    few, many = (memory(SHAPE, settings(name), load(ranks=ranks), {}) for ranks in (2, 2 * 2**doublings))
    assert peak(many.device) <= peak(few.device)
    assert peak(many.host) <= peak(few.host)


def test_states_are_near_deepspeeds_own_estimates() -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    def states(name: str, where: str) -> int:
        parts = getattr(memory(SHAPE, settings(name), load(ranks=8), {}), where)["update"]
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
