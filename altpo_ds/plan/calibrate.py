"""Measures this machine: matrix multiply, memory, disk, and what one rank receives of another by gloo."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from altpo_ds.plan.cost import Machine

SIZE = 64 * 2**20  # bytes of a transfer


def calibrate(folder: Path, gpu: bool) -> Machine:
    """The machine's speeds, the best of three each; what is not here (other nodes) keeps its default."""
    device = torch.device("cuda" if gpu else "cpu")
    near = _gloo() if not gpu else Machine.inside_node
    measured = Machine(flops=_multiply(device), inside_node=near, host_memory=_memory(), disk=_disk(folder))
    return replace(measured, host_link=_copy_to(device) if gpu else measured.host_memory)


def _best(action: Callable[[], object], synchronize: Callable[[], object] = lambda: None) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        action()
        synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def _multiply(device: torch.device) -> float:
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return 2 * size**3 / _best(lambda: torch.mm(a, b), synchronize)


def _memory() -> float:
    source = torch.ones(SIZE, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * SIZE / _best(lambda: target.copy_(source))  # read and written


def _copy_to(device: torch.device) -> float:
    source = torch.ones(SIZE, dtype=torch.uint8, pin_memory=True)
    return SIZE / _best(lambda: source.to(device), torch.cuda.synchronize)


def _disk(folder: Path) -> float:
    data = os.urandom(SIZE)

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return SIZE / _best(write)


def _gloo() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_gather, (folder,), nprocs=2, start_method="spawn")
        return float((Path(folder) / "speed").read_text())


def _gather(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    mine = torch.ones(SIZE, dtype=torch.uint8)
    both = [torch.empty_like(mine) for _ in range(2)]
    speed = SIZE / _best(lambda: dist.all_gather(both, mine))
    if rank == 0:
        (Path(folder) / "speed").write_text(str(speed))
    dist.destroy_process_group()
