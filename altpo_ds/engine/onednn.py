"""Matrix products by oneDNN where torch would take MKL's slower path.

torch gives float32 products on CPUs to MKL, which uses AVX-512 on Intel's processors alone. oneDNN, part of torch
too, uses it on all that have it: twice the speed there, same precision.
"""

import contextlib
import warnings
from pathlib import Path

import torch
from torch import Tensor

_overrides: list[torch.library.Library] = []  # in force for as long as they live


def use() -> None:
    """Takes over `mm` and `addmm` of float32 matrices on CPUs, where it pays. Once a process."""
    if _overrides or not pays():
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that kernels are replaced, which is meant
        library.impl("mm", mm, "CPU")
        library.impl("addmm", addmm, "CPU")
    _overrides.append(library)


def pays() -> bool:
    """Whether this is a processor with AVX-512 that is not Intel's."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    with contextlib.suppress(OSError):
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    return False


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for matrices (n, m) and (m, p)."""
    if _suits(a) and _suits(b):
        return _linear(a, b.t(), None)
    return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # torch's own: only the form without `out` is ours


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * (a @ b)."""
    if _suits(a) and _suits(b) and bias.shape == b.shape[1:] and bias.is_contiguous() and beta == alpha == 1:
        return _linear(a, b.t(), bias)
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=out)


def _suits(matrix: Tensor) -> bool:
    """Whether oneDNN takes it as it lies: float32, not empty, one row or column after the other."""
    rows, columns = matrix.shape
    lies = matrix.stride() in ((columns, 1), (1, rows))
    return matrix.dtype == torch.float32 and lies and rows > 0 and columns > 0


def _linear(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, weight, bias, "none", [], "")
