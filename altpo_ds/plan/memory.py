"""Bytes that a rank holds in the phases of an optimizer step, as DeepSpeed lays them out for a stage and offloading.

Stage 0 follows runtime/engine.py of DeepSpeed 0.19, stages 1 and 2 runtime/zero/stage_1_and_2.py, stage 3 stage3.py.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

from altpo_ds.plan.held import Memory, Parts, hold
from altpo_ds.plan.load import Load, activations, at_work, logits
from altpo_ds.plan.shape import Shape

MASTER, MOMENTS = 4, 8  # bytes of an element: the fp32 copy, and AdamW's two moments
NORM = 8  # bytes of an element of a gradient whose norm is taken, in float64 and one at a time
OBJECTS = 2 * 2**20  # Python objects of an engine on the host: hooks, traces, group state; as measured
BUCKET = 500_000_000  # elements of gradients averaged at a time: always at stage 0, else where the file says nothing


def zero(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of a DeepSpeed dict that partitions."""
    return settings.get("zero_optimization", {})


def offload(settings: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Its section offload_param or offload_optimizer; device none where there is none."""
    return zero(settings).get(what) or {"device": "none"}


def bucket(settings: Mapping[str, Any]) -> int:
    """Elements of gradients that are averaged at a time."""
    return int(zero(settings).get("reduce_bucket_size", BUCKET))


def reductions(shape: Shape, settings: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Buckets of a backward pass: elements averaged before, elements of this one, and of the gradient that waits.

    Gradients come from the last parameter to the first. One that does not fit any more sends the bucket off; one
    that is larger than a bucket goes alone, from where it lies.
    """
    before = filled = 0
    for numel in reversed(shape.numels):
        if filled and filled + numel > bucket(settings):
            yield before, filled, numel
            before, filled = before + filled, 0
        filled += numel
    yield before, filled, 0


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
    """Elements that ZeRO-3 holds gathered at most: those kept and the module at work, or, without a backward pass, a
    parameter and those fetched ahead of their use: whole ones, until they fill a bucket.
    """
    if backward:
        return min(shape.parameters, kept_for_backward(shape, settings) + _together(shape, settings))
    threshold = zero(settings).get("stage3_param_persistence_threshold", 100_000)
    order = [numel for numel in shape.numels if numel >= threshold] + [shape.projection] * shape.tied
    most = _together(shape, settings)
    for number, numel in enumerate(order):
        ahead = 0
        for following in order[number + 1 :]:
            if ahead >= _ahead(settings):
                break
            ahead += following
        most = max(most, numel + ahead)
    return min(shape.parameters, persistent(shape, settings) + most)


def _together(shape: Shape, settings: Mapping[str, Any]) -> int:
    """Elements gathered at a time: of a module, or of a whole layer that is no larger than what is fetched ahead."""
    layer = shape.body // shape.layers
    return max(shape.largest_module, layer * (layer <= _ahead(settings)))


def _ahead(settings: Mapping[str, Any]) -> int:
    """Elements that ZeRO-3 fetches ahead."""
    return int(zero(settings).get("stage3_prefetch_bucket_size", 50_000_000))


def memory(shape: Shape, settings: Mapping[str, Any], load: Load, reference: Mapping[str, Any]) -> Memory:
    """A rank's memory with a DeepSpeed dict; `reference` is that of the reference engine, which counts when online."""
    stage = zero(settings).get("stage", 0)
    out = Memory()
    hold(out.device, "activations", activations(shape, load), "forward", "backward")
    # the backward pass starts with the output layer, whose logits are gone in that of a layer
    hold(out.device, "at work", max(logits(shape, load), at_work(shape, load)), "backward")
    hold(out.host, "engine", OBJECTS)
    _LAYOUTS[min(stage, 3)](shape, settings, load, out)
    if load.online_reference:
        shard = load.element * shape.parameters // load.ranks
        at = out.host if offload(reference, "offload_param")["device"] != "none" else out.device
        hold(at, "reference", shard)
        copies = 2 if load.cpu and load.ranks > 1 else 1 - load.cpu  # gloo's own; a lone rank's shard is whole
        gathered = copies * load.element * live(shape, reference, backward=False)
        hold(out.device, "reference gathered", gathered, "backward")
    return out


def _whole(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stage 0: everything on every rank; after the backward pass gradients are averaged in flat copies."""
    count, e = shape.parameters, load.element
    earlier = count if load.accumulation > 1 else 0
    hold(out.device, "parameters", e * count)
    hold(out.device, "optimizer", (MOMENTS + MASTER * load.mixed) * count)
    hold(out.device, "gradients", e * (earlier + shape.projection), "backward")  # the output layer's comes first
    hold(out.device, "gradients", e * count, "reduction", "update")
    # a bucket ends with the parameter that fills it; a tied embedding's two gradients are added at the very end
    flat = min(count, BUCKET + max(shape.numels)) if load.ranks > 1 else 0
    hold(out.device, "copies of gradients", e * max(flat, shape.projection * shape.tied), "reduction")
    hold(out.device, "copies of gradients", MASTER * count * load.mixed, "update")


def _partitioned(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stages 1 and 2: whole parameters, a share of gradients and optimizer, float32 copies even of float32."""
    count, e = shape.parameters, load.element
    share, own = -(-count // load.ranks), _owned(shape, load.ranks)
    hold(out.device, "parameters", e * count)
    offloaded = offload(settings, "offload_optimizer")["device"] != "none"
    near = out.host if offloaded else out.device
    hold(near, "optimizer", (MASTER + MOMENTS) * share)
    if load.accumulation > 1:  # stage 1 averages none before the last micro-batch
        if zero(settings)["stage"] == 1:
            hold(out.device, "earlier gradients", e * count, "backward")
        else:
            hold(near, "earlier gradients", e * own, "backward", "reduction")
    hold(out.device, "gradients", e * shape.projection, "backward")  # the output layer's comes first
    if not load.cpu:
        hold(out.device, "buckets", e * _buffers(settings), "backward")
    reduction = partial(_partitioned_reduction, shape, settings, load, 0 if offloaded else own)
    for part, size in _worst(shape, settings, reduction).items():
        hold(out.device, part, size, "reduction")
    norm = NORM * min(max(shape.numels), share)
    if offloaded:
        hold(out.host, "step", (MASTER + e) * share)  # float32 gradients, and new parameters on their way back
        hold(out.device, "norm", norm, "reduction")
    else:
        hold(out.device, "gradients", e * own, "update")
        flat = (e + MASTER * load.mixed) * share
        hold(out.device, "copies of gradients", max(flat, norm), "update")
    if load.cpu and load.ranks > 1:
        hold(out.device, "messages", e * count, "gather")


def _owned(shape: Shape, ranks: int) -> int:
    """Elements of the parameters of which a share has a part, at most: stages 1 and 2 keep their gradients whole."""
    share, ends = -(-shape.parameters // ranks), list(accumulate(shape.numels))
    starts = range(0, shape.parameters, share)
    return max(
        sum(numel for numel, end in zip(shape.numels, ends, strict=True) if start < end < start + share + numel)
        for start in starts
    )


def _buffers(settings: Mapping[str, Any]) -> int:
    """Elements of the buffers of stages 1 and 2: a second one is filled while the first is averaged."""
    return bucket(settings) * (2 if zero(settings).get("overlap_comm") else 1)


def _worst(shape: Shape, settings: Mapping[str, Any], reduction: Callable[..., Parts]) -> Parts:
    """Parts of that reduction of a backward pass which takes most."""
    return max((reduction(*each) for each in reductions(shape, settings)), key=lambda parts: sum(parts.values()))


def _left(shape: Shape, load: Load, to_come: int) -> int:
    """Bytes of activations, and of the layer at work, with so many gradients to come, the embedding's last."""
    layers = max(0, to_come - shape.projection)
    return activations(shape, load) * layers // shape.body + at_work(shape, load) * (layers > 0)


def _partitioned_reduction(
    shape: Shape, settings: Mapping[str, Any], load: Load, own: int, before: int, filled: int, waiting: int
) -> Parts:
    """Gradients lie in buffers; ranks average a flat copy; then `own` elements, a rank's in the end, are copied out."""
    e, first_stage = load.element, zero(settings)["stage"] == 1
    to_come = shape.parameters - before - filled
    alone = filled > bucket(settings)
    written = before + (0 if alone else filled)
    kept = own if before else 0
    return {
        # stage 1 averages after the backward pass
        "activations": 0 if first_stage else _left(shape, load, to_come),
        "buckets": e * (min(written, _buffers(settings)) if load.cpu else _buffers(settings)),
        "gradients": e * (kept + filled * alone + (to_come if first_stage else waiting)),
        "copies of gradients": e * max(filled if load.ranks > 1 else 0, own - kept),
    }


def _sharded(shape: Shape, settings: Mapping[str, Any], load: Load, out: Memory) -> None:
    """Stage 3: a share of everything, and what is gathered of the parameters."""
    count, e, ranks = shape.parameters, load.element, load.ranks
    share = -(-count // ranks)
    at = {"none": out.device, "cpu": out.host, "nvme": out.nvme}
    parameters, optimizer = offload(settings, "offload_param"), offload(settings, "offload_optimizer")
    device = optimizer["device"]
    hold(at[parameters["device"]], "parameters", e * share)
    # float32 parameters could be their own master copy, but DeepSpeed compares their device with a string: never equal
    hold(at[device], "optimizer", (MASTER + MOMENTS) * share)
    near = out.device if device == "none" else out.host
    hold(near, "gradients", e * share)
    # flat and in float32: made for the update, on the host once for all
    step = min(share, zero(settings).get("sub_group_size", 10**9)) if device != "cpu" else share
    hold(near, "gradients of the step", MASTER * step, *(() if device == "cpu" else ("update",)))
    if device == "nvme":
        hold(out.host, "swap buffers", optimizer.get("buffer_count", 4) * MASTER * step)
    if parameters["device"] == "nvme":
        buffers = parameters.get("buffer_count", 5) * parameters.get("buffer_size", 10**8)
        hold(out.host, "parameter buffers", e * buffers)
    secondary = zero(settings).get("zero_hpz_partition_size", 1)
    if secondary > 1:
        hold(out.device, "secondary shard", e * -(-count // secondary))
    gathered = e * _gathered(shape, settings, load)
    hold(out.device, "gathered", gathered, "forward", "backward")
    if load.cpu and ranks > 1:  # gloo keeps its copies of what was fetched ahead until all of it is used
        fetched = min(count, _together(shape, settings) + _ahead(settings))
        hold(out.device, "messages", e * fetched, "forward")
    hold(out.device, "gradients at hand", e * shape.projection, "backward")  # the output layer's comes first
    written = min(count, bucket(settings)) * (ranks > 1)
    hold(out.device, "buckets", e * (written if load.cpu else bucket(settings)))
    reduction = partial(_sharded_reduction, shape, settings, load)
    for part, size in _worst(shape, settings, reduction).items():
        hold(out.device, part, size, "reduction")


def _gathered(shape: Shape, settings: Mapping[str, Any], load: Load) -> int:
    """Elements held whole when the passes meet; a lone rank's shard is whole where it lies."""
    here = load.cpu or offload(settings, "offload_param")["device"] == "none"
    return 0 if load.ranks == 1 and here else live(shape, settings, backward=True)


def _sharded_reduction(
    shape: Shape, settings: Mapping[str, Any], load: Load, before: int, filled: int, waiting: int
) -> Parts:
    """A bucket's gradients are copied rank by rank for reduce-scatter, and once more by gloo; a lone rank's stay."""
    e, alone, shared = load.element, filled > bucket(settings), load.ranks > 1
    to_come = shape.parameters - before - filled
    return {
        "activations": _left(shape, load, to_come),
        "gathered": e * min(to_come, _gathered(shape, settings, load)),
        "gradients at hand": e * (filled * (alone or not shared) + waiting),
        "copies of gradients": e * filled * (shared and not alone),
        "messages": e * filled * (shared and load.cpu),
    }


_LAYOUTS = {0: _whole, 1: _partitioned, 2: _partitioned, 3: _sharded}
