"""DeepSpeed's CPU kernels, compiled on first use and kept with the environment."""

import contextlib
import fcntl
import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def use_own_tools() -> None:
    """Kernels are built for one environment: in a shared folder two of them would rebuild each other's."""
    # ninja, which builds them, lies beside the interpreter that runs us; another version of it would build anew
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process builds at a time, the others wait. Torch's own lock outlives a build that was killed, and the next
    run would wait for it without end: whoever is alone here knows it to be stale.
    """
    from torch.utils.cpp_extension import get_default_build_root

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in folder.glob("*/lock"):
            log.warning("%s is left of a build that was killed: removed", stale)
            stale.unlink()
        yield


def build(name: str) -> str | None:
    """Builds what DeepSpeed's builder of that name describes, where it is not there yet: about a minute, once.

    The reason where it cannot be built.
    """
    from deepspeed.accelerator import get_accelerator

    use_own_tools()
    _ask_the_processor_once()
    accelerator: Any = get_accelerator()
    try:
        with alone():
            accelerator.create_op_builder(name).load(verbose=False)
    except Exception as error:  # a failed build raises what the compiler's wrapper likes
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return None


def _ask_the_processor_once() -> None:
    """Builders and optimizer each start a process that names the processor, a second every time."""
    import cpuinfo

    if not hasattr(cpuinfo.get_cpu_info, "cache_info"):
        cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
