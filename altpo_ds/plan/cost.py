"""Bytes over the network per optimizer step, size of a checkpoint, and an estimate of their time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altpo_ds.plan.load import Load
from altpo_ds.plan.memory import kept_for_backward, offload, persistent, zero
from altpo_ds.plan.shape import Shape


@dataclass(frozen=True)
class Machine:
    """Speeds: FLOP/s that a rank reaches, and bytes/s of a rank in its node, between nodes, to its host's memory, of
    that memory, and of a disk. The defaults are an H100's at 40 % of its peak with one 400 Gbit/s card a GPU.
    """

    flops: float = 400e12
    inside_node: float = 300e9
    between_nodes: float = 40e9
    host_link: float = 25e9
    host_memory: float = 40e9
    disk: float = 2e9


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank receives in an optimizer step."""

    gathers: int
    reductions: int

    @property
    def total(self) -> int:
        return self.gathers + self.reductions


def traffic(shape: Shape, settings: Mapping[str, Any], load: Load, reference: Mapping[str, Any]) -> Traffic:
    """By ring algorithms: all-gather and reduce-scatter of n bytes move n (W - 1) / W, all-reduce twice that."""
    stage, count, e = zero(settings).get("stage", 0), shape.parameters, load.element

    def moved(elements: int, element: float = e) -> int:
        return int(elements * element * (load.ranks - 1) / load.ranks)

    if stage < 3:
        gathers = moved(count) if stage else 0
        reductions = 2 * moved(count) if stage == 0 else moved(count) * (load.accumulation if stage == 2 else 1)
    else:
        wire = 1.0 if zero(settings).get("zero_quantized_weights") else e
        small = persistent(shape, settings)  # gathered once, after the optimizer step
        again = max(0, count - small - kept_for_backward(shape, settings))  # let go, and gathered once more
        gathers = moved(small) + load.accumulation * moved(count - small + again, wire)
        wire = 1.0 if zero(settings).get("zero_quantized_gradients") else e
        reductions = load.accumulation * moved(count, wire)
    if load.online_reference:
        gathers += load.accumulation * moved(count - persistent(shape, reference))
    return Traffic(gathers, reductions)


def checkpoint_bytes(shape: Shape, settings: Mapping[str, Any], load: Load) -> int:
    """Of all ranks together: float32 weights and moments; below stage 3 also the module's own parameters, and at
    stage 0 in float32 nothing twice."""
    stage, e = zero(settings).get("stage", 0), load.element
    if stage == 0:
        return shape.parameters * (e + 8 + (4 if load.mixed else 0))
    return shape.parameters * (12 + (e if stage < 3 else 0))


def flops(shape: Shape, load: Load) -> float:
    """Of a rank and micro-batch: 2 a weight and token forward, 4 backward, 2 to recompute, 2 for an online reference;
    the output layer sees response tokens alone. Attention scores are left out: rows are short."""
    forward = 2.0 * (shape.body * load.tokens + shape.projection * load.response_tokens)
    return forward * (3 + load.checkpointing + load.online_reference)


@dataclass(frozen=True)
class Seconds:
    """Estimated time of an optimizer step by part, and of a checkpoint."""

    compute: float
    network: float
    host: float  # offloaded shards over the host link, and the optimizer on the host
    step: float
    checkpoint: float


def seconds(
    shape: Shape, settings: Mapping[str, Any], load: Load, moved: Traffic, machine: Machine, ranks_per_node: int
) -> Seconds:
    """The step is the longest of the three where DeepSpeed overlaps communication, else their sum; the optimizer on
    the host or disk overlaps with nothing."""
    share, e = shape.parameters / load.ranks, load.element
    compute = load.accumulation * flops(shape, load) / machine.flops
    speed = machine.inside_node if load.ranks <= ranks_per_node else machine.between_nodes
    network = moved.total / speed
    fetches, update = 0.0, 0.0
    if (device := offload(settings, "offload_param")["device"]) != "none":
        once = e * share / (machine.host_link if device == "cpu" else machine.disk / ranks_per_node)
        fetches = 2 * load.accumulation * once
    if (device := offload(settings, "offload_optimizer")["device"]) != "none":
        update = 2 * e * share / machine.host_link + 28 * share / machine.host_memory
        if device == "nvme":
            update += 24 * share / (machine.disk / ranks_per_node)
    overlapped = zero(settings).get("overlap_comm", False)
    step = update + (max(compute, network, fetches) if overlapped else compute + network + fetches)
    nodes = max(1, load.ranks // ranks_per_node)
    checkpoint = checkpoint_bytes(shape, settings, load) / (nodes * machine.disk)
    return Seconds(compute, network, fetches + update, step, checkpoint)
