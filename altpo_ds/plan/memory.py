"""Bytes that a rank holds at its peak, part by part, as DeepSpeed lays them out for a stage and its offloading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altpo_ds.objective.log_probs import CHUNK_BYTES
from altpo_ds.plan.shape import Shape

MASTER, MOMENTS = 4, 8  # bytes of an element: the fp32 copy, and AdamW's two moments
OBJECTS = 2 * 2**20  # Python objects of an engine on the host: hooks, traces, group state; as measured

Parts = dict[str, int]


@dataclass(frozen=True)
class Load:
    """What a run puts on each rank."""

    ranks: int
    tokens: int  # of the packed row of a micro-batch
    response_tokens: int  # of them, those that are projected onto the vocabulary
    accumulation: int
    element: int  # bytes of a parameter
    gloo: bool = False  # whether collectives run on the CPU, which copies each message
    checkpointing: bool = False
    online_reference: bool = False
    distribution_tokens: int = 0  # retain response tokens whose whole distribution a KL term keeps

    @property
    def mixed(self) -> bool:
        """Whether the optimizer keeps float32 copies of 16-bit parameters."""
        return self.element < 4


@dataclass(frozen=True)
class Memory:
    """Parts of a rank's peak on its device, on its host and on its node's disk, in bytes."""

    device: Parts = field(default_factory=dict)
    host: Parts = field(default_factory=dict)
    nvme: Parts = field(default_factory=dict)


def zero(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of a DeepSpeed dict that partitions."""
    return settings.get("zero_optimization", {})


def offload(settings: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Its section offload_param or offload_optimizer; device none where there is none."""
    return zero(settings).get(what) or {"device": "none"}


def persistent(shape: Shape, settings: Mapping[str, Any]) -> int:
    """Elements of the parameters so small that ZeRO-3 keeps them whole on every rank."""
    threshold = zero(settings).get("stage3_param_persistence_threshold", 100_000)
    return sum(numel for numel in shape.numels if numel < threshold)


def kept_for_backward(shape: Shape, settings: Mapping[str, Any]) -> int:
    """Elements still gathered when the backward pass comes back for them.

    All of a model no larger than stage3_max_reuse_distance. Of a larger one the embedding is let go after its use;
    fetching ahead holds on to the rest, up to stage3_max_live_parameters.
    """
    count = shape.parameters
    if count <= zero(settings).get("stage3_max_reuse_distance", 10**9):
        return count
    return min(count - shape.projection, int(zero(settings).get("stage3_max_live_parameters", 10**9)))


def live(shape: Shape, settings: Mapping[str, Any], backward: bool) -> int:
    """Elements that ZeRO-3 holds gathered at most: those kept, the module at work, and those fetched ahead."""
    ahead = zero(settings).get("stage3_prefetch_bucket_size", 50_000_000)
    kept = kept_for_backward(shape, settings) if backward else persistent(shape, settings) + ahead
    return min(shape.parameters, kept + shape.largest_module)


def activations(shape: Shape, load: Load) -> int:
    """Bytes that the forward pass leaves behind, and the tensors at work in the backward pass of a layer."""
    inside = shape.layers * shape.inside
    if load.checkpointing:
        inside = shape.layers * shape.hidden * load.element + shape.inside
    return load.tokens * (inside + shape.outside + 3 * shape.widest)


def logits(shape: Shape, load: Load) -> int:
    """Bytes of the chunk of logits, in float32 and in the parameters' own type, and of the distributions of a KL term:
    policy and reference, with the gradient."""
    rows = min(load.response_tokens, max(1, CHUNK_BYTES // (4 * shape.vocabulary)))
    chunk = rows * shape.vocabulary * (4 + (load.element if load.mixed else 0))
    return chunk + 3 * load.distribution_tokens * shape.vocabulary * 4


def memory(shape: Shape, settings: Mapping[str, Any], load: Load, reference: Mapping[str, Any]) -> Memory:
    """A rank's peak with a DeepSpeed dict; `reference` is that of the reference engine, which counts when online."""
    stage = zero(settings).get("stage", 0)
    out = Memory()
    out.device["activations"] = activations(shape, load)
    out.device["logits"] = logits(shape, load)
    out.host["engine"] = OBJECTS
    _LAYOUTS[min(stage, 3)](shape, settings, load, out)
    if load.online_reference:
        shard = load.element * shape.parameters // load.ranks
        at = out.host if offload(reference, "offload_param")["device"] != "none" else out.device
        at["reference"] = shard
        out.device["reference gathered"] = load.element * live(shape, reference, backward=False)
    return out


def _whole(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stage 0: everything on every rank; gradients are averaged in flat copies."""
    count, e = shape.parameters, load.element
    bucket = min(count, zero(settings).get("reduce_bucket_size", 500_000_000))
    out.device["parameters"] = out.device["gradients"] = e * count
    out.device["optimizer"] = (MOMENTS + MASTER * load.mixed) * count
    out.device["buckets"] = max(e * bucket if load.ranks > 1 else 0, MASTER * count if load.mixed else 0)


def _partitioned(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stages 1 and 2: whole parameters, a share of gradients and optimizer, float32 copies even of float32."""
    count, e = shape.parameters, load.element
    share = -(-count // load.ranks)
    bucket = min(count, zero(settings)["reduce_bucket_size"]) * (2 if zero(settings).get("overlap_comm") else 1)
    out.device["parameters"] = e * count
    out.device["gradients"] = e * share
    near = out.host if offload(settings, "offload_optimizer")["device"] != "none" else out.device
    near["optimizer"] = (MASTER + MOMENTS) * share
    near["gradients of the step"] = MASTER * share
    out.device["buckets"] = e * (bucket + max(bucket, shape.largest_module))  # and the whole gradients that fill them


def _sharded(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stage 3: a share of everything, and what is gathered of the parameters."""
    count, e, ranks = shape.parameters, load.element, load.ranks
    share = -(-count // ranks)
    at = {"none": out.device, "cpu": out.host, "nvme": out.nvme}
    parameters, optimizer = offload(settings, "offload_param"), offload(settings, "offload_optimizer")
    device = optimizer["device"]
    at[parameters["device"]]["parameters"] = e * share
    # without offloading float32 parameters are their own master copy
    master = MASTER if load.mixed or device != "none" else 0
    at[device]["optimizer"] = (master + MOMENTS) * share
    near = out.device if device == "none" else out.host
    step = min(share, zero(settings).get("sub_group_size", 10**9)) if device != "cpu" else share
    near["gradients"] = e * share
    near["gradients of the step"] = MASTER * step  # flat and in float32, made by the optimizer step
    if device == "nvme":
        out.host["swap buffers"] = optimizer.get("buffer_count", 4) * MASTER * step
    if parameters["device"] == "nvme":
        buffers = parameters.get("buffer_count", 5) * parameters.get("buffer_size", 10**8)
        out.host["parameter buffers"] = e * buffers
    out.device["gathered"] = e * live(shape, settings, backward=True)
    # a bucket of whole gradients, its padded copy for reduce-scatter, and the gradient that autograd has at hand
    bucket = min(count, zero(settings)["reduce_bucket_size"])
    largest = shape.projection * (2 if shape.tied else 1)
    out.device["buckets"] = e * (bucket + max(bucket, shape.largest_module) + largest)
    if load.gloo and ranks > 1:
        out.device["messages"] = e * shape.largest_module
    secondary = zero(settings).get("zero_hpz_partition_size", 1)
    if secondary > 1:
        out.device["secondary shard"] = e * -(-count // secondary)


_LAYOUTS = {0: _whole, 1: _partitioned, 2: _partitioned, 3: _sharded}


def peak(parts: Parts) -> int:
    """Bytes of the highest moment: in the backward pass, or in the optimizer step, when activations are gone."""
    step_only = {"gradients of the step"}
    backward_only = {"activations", "logits", "buckets", "messages", "gathered", "reference gathered"}
    rest = sum(size for name, size in parts.items() if name not in step_only | backward_only)
    return rest + max(sum(parts.get(name, 0) for name in names) for names in (step_only, backward_only))
