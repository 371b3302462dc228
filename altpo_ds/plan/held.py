"""Bytes by place, phase of an optimizer step, and part."""

from collections import Counter
from dataclasses import dataclass, field

# End of the forward pass; start of the backward pass; a bucket of gradients is averaged; weights are updated; and
# gathered after it (stages 1 and 2).
PHASES = ("forward", "backward", "reduction", "update", "gather")

Parts = dict[str, int]
Held = dict[str, Parts]  # by phase


def nothing() -> Held:
    return {phase: {} for phase in PHASES}


@dataclass(frozen=True)
class Memory:
    """What a rank holds on its device, on its host and on its node's disk: bytes of each part by phase."""

    device: Held = field(default_factory=nothing)
    host: Held = field(default_factory=nothing)
    nvme: Held = field(default_factory=nothing)


def hold(held: Held, part: str, size: int, *phases: str) -> None:
    """Notes the bytes of a part in these phases, in all of them where none is named."""
    for phase in phases or PHASES:
        held[phase][part] = size


def on_cpu(memory: Memory) -> Memory:
    """The same where the device is the host."""
    added = {phase: dict(Counter(memory.host[phase]) + Counter(memory.device[phase])) for phase in PHASES}
    return Memory(host=added, nvme=memory.nvme)


def peak(held: Held) -> int:
    """Bytes of the highest phase."""
    return max(sum(parts.values()) for parts in held.values())
