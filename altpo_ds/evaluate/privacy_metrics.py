"""Memorization and membership inference as pure functions of token scores and row scores."""

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, rankdata

from altpo_ds.engine.scoring import TokenScores
from altpo_ds.evaluate.intervals import RESAMPLES, Interval
from altpo_ds.evaluate.ks import finite
from altpo_ds.evaluate.metrics import EPSILON, Dialect

LOWEST = 0.4  # share of a response's tokens that min-k and min-k++ look at
LEAST_VARIANCE = 1e-6


class Auc(NamedTuple):
    """P(a holdout row scores higher than a forget row), ties half: about 1 memorized, 0.5 ideal."""

    value: float
    interval: Interval


def memorization(tokens: TokenScores, text: str, dialect: Dialect) -> dict[str, float | None]:
    """A row's exact memorization, extraction strength, and scores of the attacks min-k, min-k++ and zlib.

    The closing end-of-turn token counts in zlib's NLL alone; None for a response without any other.
    """
    log_probs, greedy = tokens.log_probs.double().numpy(), tokens.greedy.numpy()
    standard = (tokens.log_probs - tokens.mean) / tokens.variance.clamp(min=LEAST_VARIANCE).sqrt()
    return {
        "exact_memorization": exact_memorization(greedy[:-1].tolist()),
        "extraction_strength": extraction_strength(greedy[:-1].tolist(), dialect),
        "min_k": min_k(log_probs[:-1].tolist()),
        "min_k_plus_plus": min_k(standard[:-1].double().tolist()),
        "zlib": zlib_score(-float(log_probs.mean()), text),
    }


def exact_memorization(greedy: Sequence[bool]) -> float | None:
    """Share of the tokens that are the likeliest ones (Tirumala et al. 2022); None without any."""
    return float(np.mean(greedy)) if len(greedy) else None


def extraction_strength(greedy: Sequence[bool], dialect: Dialect = "altpo") -> float | None:
    """1 - k/m, k the shortest prefix of the m tokens after which all the rest are the likeliest ones (Carlini et al.
    2021); None without any token. Where even the last is not, 0; `openunlearning` has 1/m there.
    """
    if not len(greedy):
        return None
    suffix = next((n for n, correct in enumerate(reversed(greedy)) if not correct), len(greedy))
    if dialect == "openunlearning":
        suffix = max(suffix, 1)
    return suffix / len(greedy)


def min_k(scores: Sequence[float], share: float = LOWEST) -> float | None:
    """Minus the mean of the lowest scores: of log-probabilities min-k% (Shi et al. 2024), of standardised ones
    min-k%++ (Zhang et al. 2024); None without any.
    """
    if not len(scores):
        return None
    return -float(np.sort(scores)[: max(1, math.floor(share * len(scores)))].mean())


def zlib_score(nll_mean: float, text: str) -> float:
    """Mean NLL over the length of the compressed text in bytes (Carlini et al. 2021)."""
    return nll_mean / len(zlib.compress(text.encode()))


def membership_auc(forget: Sequence[float], holdout: Sequence[float]) -> Auc:
    """ROC-AUC of scores that are lower for members, forget rows against holdout rows, with a 95 % interval."""
    members, others = finite(forget, "scores of the forget rows"), finite(holdout, "scores of the holdout rows")
    if len(members) < 2 or len(others) < 2:
        return Auc(float(_auc(members, others)), Interval(0.0, 1.0))
    drawn = bootstrap((members, others), _auc, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return Auc(float(_auc(members, others)), Interval(*map(float, drawn.confidence_interval)))


def _auc(members: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mann-Whitney's statistic over the number of pairs, along the last axis."""
    m, n = members.shape[axis], others.shape[axis]
    ranks = rankdata(np.concatenate([members, others], axis=axis), axis=axis)
    return (ranks[..., m:].sum(axis=axis) - n * (n + 1) / 2) / (m * n)


def privleak(auc: float, reference_auc: float) -> float:
    """100 (a - r) / r of a = 1 - AUC, r that of the retain model (MUSE): 0 ideal, -100 not unlearned, far above 0
    unlearned too much.
    """
    return 100 * (reference_auc - auc) / (1 - reference_auc + EPSILON)


def relative_difference(auc: float, reference_auc: float) -> float:
    """100 (AUC - AUC of the retain model) / the latter: 0 ideal."""
    return 100 * (auc - reference_auc) / (reference_auc + EPSILON)
