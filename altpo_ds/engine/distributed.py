"""Process group and device of this rank, and the few collectives that the rest needs."""

import contextlib
import io
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from altpo_ds.config.errors import NodeError, UserError
from altpo_ds.engine import heap, kernels, nodes, onednn, roll_call

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(timeout: float) -> World:
    """Joins the process group that torchrun, DeepSpeed or Slurm set up; alone when nobody did.

    `timeout` in seconds bounds every collective.
    """
    has_gpu = torch.cuda.is_available()
    kernels.use_own_tools()
    if not has_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        heap.keep()
        onednn.use()
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = free_port()
    # DeepSpeed calls collectives by names that torch renames; nobody who runs us can act on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed
    from deepspeed.utils import logger

    if not os.environ.get("DS_LOG_LEVEL"):
        logger.setLevel(logging.WARNING)
    backend = "nccl" if has_gpu else "gloo"
    limit = timedelta(seconds=timeout)
    # DeepSpeed makes further groups, which would wait for as long as torch thinks fit.
    distributed_c10d.default_pg_timeout = limit
    distributed_c10d.default_pg_nccl_timeout = limit  # pyright: ignore[reportPrivateImportUsage]
    if not dist.is_initialized():
        nodes.check_master()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # standard output is for results, not for kernels
                if not has_gpu and kernels.build("ShareMemCommBuilder"):
                    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo goes without them
                deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=limit)
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise NodeError(
                f"rank {os.environ['RANK']} on {nodes.name_of_node()} cannot join the process group ({reason}); "
                "check MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE and the network between the nodes"
            ) from error
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    roll_call.attend(dist.get_rank(), dist.get_world_size(), timeout)
    nodes.check_versions(gather_objects(nodes.versions()))
    return World(dist.get_rank(), dist.get_world_size(), local_rank, device)


def free_port() -> str:
    """A port that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def stop() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T) -> T:
    """Rank 0's value on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block in which a rank may meet bad input: when one raises UserError, all do, and nobody waits for it."""
    failure: str | None = None
    try:
        yield
    except UserError as error:
        failure = str(error)
    first = next((message for message in gather_objects(failure) if message is not None), None)
    if first is not None:
        raise UserError(first)
