"""What goes wrong between the nodes of a run, told by name before it shows as a collective that hangs."""

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from altpo_ds.config.errors import NodeError, UserError

PACKAGES = ("altpo_ds", "torch", "deepspeed", "transformers")


def check_master() -> None:
    """NodeError where this node cannot resolve the address that the ranks meet at, for which torch waits long."""
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise NodeError(
            f"MASTER_ADDR = {address}: {name_of_node()} cannot resolve it ({error.strerror}); "
            "set it to the IP address of rank 0's node"
        ) from None


def versions() -> dict[str, str]:
    """What has to be the same on all ranks, and on which node this one is."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, "node": name_of_node()}


def check_versions(of_ranks: Sequence[Mapping[str, str]]) -> None:
    """UserError for the first version that differs from rank 0's; `of_ranks` has the `versions` of each rank."""
    first = of_ranks[0]
    for rank, own in enumerate(of_ranks):
        for name in ("python", *PACKAGES):
            if own[name] != first[name]:
                raise UserError(
                    f"rank {rank} on {own['node']} has {name} {own[name]}, rank 0 on {first['node']} has "
                    f"{first[name]}; start all ranks from one environment"
                )


def name_of_node() -> str:
    """Slurm's name of the node, which the host need not know."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
