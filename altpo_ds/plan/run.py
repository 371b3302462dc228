"""The command `plan`: every DeepSpeed file for one run on one machine, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from altpo_ds.config.batch import batch_arithmetic
from altpo_ds.config.deepspeed import deepspeed_dict, deepspeed_file
from altpo_ds.config.schema import RunConfig
from altpo_ds.engine import onednn
from altpo_ds.plan.cost import Machine, Seconds, Traffic, checkpoint_bytes, seconds, traffic
from altpo_ds.plan.held import Memory, on_cpu, peak
from altpo_ds.plan.load import Load
from altpo_ds.plan.memory import memory
from altpo_ds.plan.shape import Shape, model_shape

GIB = 2**30
SPARE = 2 * GIB  # a GPU's context, communication buffers and fragmentation


@dataclass(frozen=True)
class Nodes:
    """Where the run shall go; `gpus` 0 means ranks on CPUs, `per_node` of them."""

    nodes: int
    per_node: int
    gpu_memory: float  # GiB of a GPU
    host_memory: float  # GiB of a node
    gpu: bool = True

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Choice:
    """One DeepSpeed file's prediction."""

    name: str
    memory: Memory
    device_bytes: int  # a rank's peak
    host_bytes: int  # a node's
    nvme_bytes: int  # a node's
    traffic: Traffic
    checkpoint_bytes: int
    seconds: Seconds
    fits: bool


def load_of(config: RunConfig, nodes: Nodes, prompt: int, response: int) -> Load:
    """Tokens of a micro-batch, of rows with `prompt` and `response` tokens: trees and retain rows."""
    batch = batch_arithmetic(config.train, nodes.ranks)
    data, unlearning = config.data, config.objective.name == "altpo"
    k = data.alternates_per_question
    retain = k * data.retain_per_pair if unlearning else 1
    answers = k + 1 if unlearning else 0
    tree = (prompt + answers * response) if unlearning else 0
    element = _dtype(config, nodes.gpu).itemsize
    kl = unlearning and config.objective.retain_loss == "kl"
    step = batch.micro * batch.accumulation  # questions of a rank
    tokens = step * (tree + retain * (prompt + response))
    passes = max(batch.accumulation, ceil(tokens / (config.train.micro_batch_tokens or tokens)))
    return Load(
        ranks=nodes.ranks,
        tokens=tokens // passes,
        response_tokens=step * (answers + retain) * response // passes,
        accumulation=passes,
        element=element,
        cpu=not nodes.gpu,
        onednn=not nodes.gpu and element == 4 and onednn.pays(),
        checkpointing=config.model.gradient_checkpointing,
        online_reference=unlearning and config.reference.mode == "online",
        distribution_tokens=step * retain * response // passes if kl else 0,
    )


def _dtype(config: RunConfig, gpu: bool) -> torch.dtype:
    if config.model.dtype == "auto":
        return torch.bfloat16 if gpu else torch.float32
    return getattr(torch, config.model.dtype)


def plan(config: RunConfig, nodes: Nodes, machine: Machine, prompt: int, response: int) -> tuple[Shape, list[Choice]]:
    """Predictions for all files in ds_configs/ and the run's own, those that fit first, then by time."""
    shape = model_shape(config.model.path, _dtype(config, nodes.gpu), nodes.gpu)
    load = load_of(config, nodes, prompt, response)
    choices = [_choice(config, name, shape, load, nodes, machine) for name in _files(config, nodes.gpu)]
    return shape, sorted(choices, key=lambda choice: (not choice.fits, choice.seconds.step, choice.device_bytes))


def _files(config: RunConfig, gpu: bool) -> list[str]:
    """Names of ds_configs/ that suit the device, and the run's own file."""
    unsuited = {"reference", "zero3_cpu"} if gpu else {"reference", "zero3", "zeropp", "zero3_nvme"}
    names = {file.stem for file in deepspeed_file("zero3").parent.glob("*.json")} - unsuited
    own = {config.engine.deepspeed} - {"auto", *(str(Path(name).stem) for name in names)}
    return sorted(names | own)


def _choice(config: RunConfig, name: str, shape: Shape, load: Load, nodes: Nodes, machine: Machine) -> Choice:
    batch = batch_arithmetic(config.train, nodes.ranks)
    engine = config.engine.model_copy(update={"deepspeed": name})
    changed = config.model_copy(update={"engine": engine})
    settings = deepspeed_dict(changed, batch, has_gpu=nodes.gpu)
    reference = deepspeed_dict(changed, batch, has_gpu=nodes.gpu, reference=True)
    needed = memory(shape, settings, load, reference)
    moved = traffic(shape, settings, load, reference)
    if not nodes.gpu:
        needed = on_cpu(needed)
    device, host = peak(needed.device), nodes.per_node * peak(needed.host)
    return Choice(
        name=name,
        memory=needed,
        device_bytes=device,
        host_bytes=host,
        nvme_bytes=nodes.per_node * peak(needed.nvme),
        traffic=moved,
        checkpoint_bytes=checkpoint_bytes(shape, settings, load),
        seconds=seconds(shape, settings, load, moved, machine, nodes.per_node),
        fits=device + SPARE * nodes.gpu <= nodes.gpu_memory * GIB and host <= nodes.host_memory * GIB,
    )


def table(shape: Shape, choices: Sequence[Choice], nodes: Nodes) -> Table:
    """Choices as rows, GiB and seconds."""
    where = f"{nodes.nodes} x {nodes.per_node} {'GPUs' if nodes.gpu else 'CPU ranks'}"
    found = Table(title=f"{shape.parameters / 1e9:.3g} billion parameters on {where}", title_justify="left")
    columns = (
        "DeepSpeed file",
        "fits",
        "GPU GiB",
        "host GiB/node",
        "network GiB/step",
        "step s",
        "checkpoint GiB",
        "s",
    )
    for number, column in enumerate(columns):
        found.add_column(column, justify="right" if number > 1 else "left")
    for choice in choices:
        sizes = (choice.device_bytes, choice.host_bytes, choice.traffic.total)
        found.add_row(
            choice.name,
            "yes" if choice.fits else "no",
            *(f"{size / GIB:.1f}" for size in sizes),
            f"{choice.seconds.step:.3g}",
            f"{choice.checkpoint_bytes / GIB:.1f}",
            f"{choice.seconds.checkpoint:.3g}",
        )
    return found


def verdict(choices: Sequence[Choice]) -> str:
    """One line: what to take."""
    first = choices[0]
    if first.fits:
        return f"fastest that fits: {first.name} (--engine.deepspeed={first.name})"
    least = min(choices, key=lambda choice: (choice.device_bytes, choice.host_bytes))
    return (
        f"nothing fits; {least.name} needs least: {least.device_bytes / GIB:.1f} GiB a GPU, "
        f"{least.host_bytes / GIB:.1f} GiB of host memory a node. Take more nodes, or model.gradient_checkpointing"
    )


def as_json(shape: Shape, choices: Sequence[Choice], nodes: Nodes) -> dict[str, Any]:
    """Everything, for machines; sizes in bytes."""
    return {
        "parameters": shape.parameters,
        "nodes": asdict(nodes),
        "choices": [asdict(choice) | {"total_traffic": choice.traffic.total} for choice in choices],
    }
