"""The exact two-sample Kolmogorov-Smirnov test, and what it can see with so many rows."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from altpo_ds.config.errors import UserError

INDISTINGUISHABLE = 0.05
"""A p-value above this: the test cannot tell the model from one that never saw the rows."""

FEW = 0.2
"""A test that only sees gaps above this one proves little by seeing none: fewer than about 90 rows."""


class KolmogorovSmirnov(NamedTuple):
    """Two-sample test: `statistic` is the largest gap between the two distribution functions, at `location`."""

    statistic: float
    pvalue: float
    log10_pvalue: float  # finite where pvalue underflows to 0
    location: float


def finite(values: Sequence[float], name: str) -> np.ndarray:
    """The values as an array; UserError for none at all, and for one that is no finite number."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise UserError(f"{name}: needs a list of numbers with at least one value, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise UserError(f"{name}: value {int(np.argmin(np.isfinite(array))) + 1} is not a finite number")
    return array


def ks_test(sample: Sequence[float], other: Sequence[float], name: str = "KS test") -> KolmogorovSmirnov:
    """Exact two-sided two-sample Kolmogorov-Smirnov test.

    The p-value is a ratio of whole numbers, because scipy's exact one underflows to 0 and, where rounding puts
    it above 1, becomes an approximation.
    """
    first, second = np.sort(finite(sample, name)), np.sort(finite(other, name))
    m, n = len(first), len(second)
    lcm, values = math.lcm(m, n), np.concatenate([first, second])
    below = [np.searchsorted(part, values, side="right") for part in (first, second)]
    gaps = np.abs(below[0] * (lcm // m) - below[1] * (lcm // n))
    h = int(gaps.max())
    paths = math.comb(m + n, n)
    outside = _outside_paths(m, n, h) if h else paths
    log10 = math.log10(outside) - math.log10(paths) if outside < paths else 0.0
    return KolmogorovSmirnov(h / lcm, outside / paths, log10, float(values[gaps.argmax()]))


def _outside_paths(m: int, n: int, h: int) -> int:
    """Of the C(m+n, n) orders of m + n values, those with a KS statistic of at least h / lcm(m, n)."""
    if m == n:
        return 2 * sum((-1) ** (k - 1) * math.comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    up, right = math.lcm(m, n) // m, math.lcm(m, n) // n
    inside = [int(j * right < h) for j in range(n + 1)]  # paths to (0, j) that stay within the band
    for i in range(1, m + 1):
        below = 0
        for j in range(n + 1):
            below = inside[j] + below if abs(i * up - j * right) < h else 0
            inside[j] = below
    return math.comb(m + n, n) - inside[n]


@cache
def detectable_gap(rows: int) -> float:
    """Smallest KS statistic that two samples of `rows` values each must show for a p-value of at most 0.05; above 1
    where even the largest gap, 1, is not enough.
    """
    paths = math.comb(2 * rows, rows)
    found = (h for h in range(1, rows + 1) if _outside_paths(rows, rows, h) <= INDISTINGUISHABLE * paths)
    return next(found, rows + 1) / rows


def few_rows(rows: int) -> str | None:
    """A remark where a test of so many rows proves little by finding nothing."""
    gap = detectable_gap(rows)
    if gap <= FEW:
        return None
    seen = f"only a KS statistic of {gap:.2f} or more would show" if gap <= 1 else "no difference could show"
    return f"few rows: with n = {rows} {seen} at p = {INDISTINGUISHABLE}, so a high p-value is no proof of likeness"
