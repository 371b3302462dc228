"""The command `doctor`: what this machine has and lacks for a run, each lack with its remedy."""

import contextlib
import multiprocessing
import netrc
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from rich.table import Table

from altpo_ds.config.hub import hub_endpoint, hub_reachable
from altpo_ds.engine import kernels
from altpo_ds.engine.reference_cache import cache_folder

GIB = 2**30
PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "wandb")
LITTLE_MEMORY, LITTLE_SPACE, SLOW_DISK = 4 * GIB, 10 * GIB, 50  # bytes, bytes, MB/s
PROBE = 32 * 2**20  # bytes that the disk's speed is measured with
PATIENCE = 60  # seconds for two processes to find each other


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Without it a run is impossible where `needed`, else slower or poorer."""

    name: str
    good: bool
    found: str
    remedy: str = ""
    needed: bool = False

    @property
    def stops(self) -> bool:
        return self.needed and not self.good


def examine(run_dir: Path) -> Iterator[Finding]:
    """All findings, each as soon as it is known. `run_dir` is where runs are to be written."""
    checks: tuple[Callable[[], Finding], ...] = (
        python,
        packages,
        accelerator,
        compiler,
        cpu_adam,
        process_group,
        lambda: disk("run directory", run_dir),
        lambda: disk("cache", cache_folder()),
        memory,
        allocator,
        wandb_login,
        hub,
        slurm,
    )
    for check in checks:
        yield check()


def table(findings: list[Finding]) -> Table:
    """For the terminal: a mark, what was found, what to do."""
    shown = Table("", "", "found")
    shown.add_column("what to do", overflow="fold")
    for finding in findings:
        mark = "[green]✓[/]" if finding.good else "[red]✗[/]" if finding.needed else "[yellow]![/]"
        shown.add_row(mark, finding.name, finding.found, "" if finding.good else finding.remedy)
    return shown


def python() -> Finding:
    found = f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"
    return Finding("Python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer", needed=True)


def packages() -> Finding:
    found, absent = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    return Finding("packages", not absent, ", ".join(found), f"pip install {' '.join(absent)}", needed=True)


def accelerator() -> Finding:
    """A GPU that torch was not built for is a mistake; none at all is a slower run."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # pyright: ignore[reportAttributeAccessIssue]
        return Finding("accelerator", True, f"{', '.join(names)}; CUDA {torch.version.cuda}, NCCL {nccl}")
    if shutil.which("nvidia-smi") and os.environ.get("DS_ACCELERATOR") != "cpu":
        remedy = "install torch without constraints-cpu.txt and see that `nvidia-smi` works, or set DS_ACCELERATOR=cpu"
        return Finding("accelerator", False, "an NVIDIA driver, but torch sees no GPU", remedy, needed=True)
    return Finding("accelerator", True, "none: runs use the CPU")


def compiler() -> Finding:
    path = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)
    return Finding("C++ compiler", path is not None, path or "none", "install g++ (Debian: apt-get install g++)")


def cpu_adam() -> Finding:
    """Builds it where it is not there yet, which takes about a minute, once."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with contextlib.redirect_stdout(sys.stderr):  # the builder talks
        reason = kernels.build("CPUAdamBuilder")
    remedy = "install a C++ compiler; without it runs on the CPU use torch's AdamW, ten times slower"
    return Finding("DeepSpeedCPUAdam", reason is None, reason or "built", remedy)


def process_group() -> Finding:
    """Two processes of this machine add a number up, over gloo; over NCCL where there are two GPUs."""
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_add_up, args=(rank, folder)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, PATIENCE - (time.monotonic() - begin)))
        good = all(process.exitcode == 0 for process in processes)
        for process in processes:
            process.kill()
    found = f"an all-reduce of two processes{'' if good else ' fails'}"
    remedy = "see the messages above; let the loopback interface be used, or name another: GLOO_SOCKET_IFNAME=eth0"
    return Finding("process group", good, found, remedy, needed=True)


def _add_up(rank: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=2)
    total = torch.tensor([rank + 1.0], device=torch.device("cuda", rank) if backend == "nccl" else "cpu")
    dist.all_reduce(total)
    dist.destroy_process_group()
    if total.item() != 3:
        raise RuntimeError(f"1 + 2 = {total.item()} over {backend}")


def disk(name: str, folder: Path) -> Finding:
    """Space and speed of the disk that a folder lies on, or would lie on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".altpo_doctor_") as probe:
            begin = time.perf_counter()
            probe.write(os.urandom(PROBE))
            probe.flush()
            os.fsync(probe.fileno())
            speed = PROBE / 1e6 / (time.perf_counter() - begin)
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(name, False, f"'{there}': {error.strerror}", "choose a folder that can be written", needed=True)
    remedy = "a checkpoint takes 16 bytes a parameter: free some space, or choose a faster disk"
    found = f"'{there}': {free / GIB:.0f} GiB free, {speed:.0f} MB/s"
    return Finding(name, free > LITTLE_SPACE and speed > SLOW_DISK, found, remedy)


def memory() -> Finding:
    here = psutil.virtual_memory()
    found = f"{here.available / GIB:.1f} of {here.total / GIB:.1f} GiB free"
    return Finding("memory", here.available > LITTLE_MEMORY, found, "end other programs, or train a smaller model")


def allocator() -> Finding:
    """tcmalloc needs about a tenth less memory than glibc's malloc as `engine/heap.py` sets it, at the same speed."""
    with contextlib.suppress(OSError):
        if "tcmalloc" in Path("/proc/self/maps").read_text():
            return Finding("allocator", True, "tcmalloc")
    folders = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
    library = next((file for folder in folders for file in sorted(Path(folder).glob("**/libtcmalloc*.so.4"))), None)
    remedy = f"LD_PRELOAD={library}" if library else "on Debian: apt-get install libtcmalloc-minimal4, then LD_PRELOAD"
    return Finding("allocator", False, "malloc; tcmalloc needs less memory on the CPU", remedy)


def wandb_login() -> Finding:
    """Whether there is a key, in the variable or where `wandb login` leaves it; it is neither read out nor tried."""
    mode = os.environ.get("WANDB_MODE", "online")
    good = mode != "online" or "WANDB_API_KEY" in os.environ or _key_in_netrc()
    found = f"WANDB_MODE={mode}" if mode != "online" else "a key is here" if good else "no key: runs log offline"
    return Finding("W&B", good, found, "`wandb login`, or tracking.wandb: false")


def _key_in_netrc() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def hub() -> Finding:
    good = hub_reachable()
    found = f"{hub_endpoint()} {'answers' if good else 'cannot be reached'}"
    remedy = "give models and data as local paths, or see to the proxy, HF_ENDPOINT and HF_HUB_OFFLINE"
    return Finding("hub", good, found, remedy)


def slurm() -> Finding:
    absent = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    found = f"no {', '.join(absent)}" if absent else "sbatch, srun, squeue"
    return Finding("Slurm", not absent, found, "only `submit` and slurm/ need it: run them on a login node")
