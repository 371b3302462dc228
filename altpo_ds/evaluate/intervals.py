"""Bootstrap intervals (95 %, percentile, seeded) of the metrics that are means over rows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from altpo_ds.evaluate.metrics import SCORES, SPLITS, UTILITY_SPLITS, Dialect, Row, model_utility, row_scores
from altpo_ds.evaluate.runs import Evaluation

RESAMPLES = 1000


class Interval(NamedTuple):
    low: float
    high: float


def intervals(evaluation: Evaluation) -> dict[str, Interval]:
    """By metric's name, as they stand in the evaluation or, where an older one has none, those of TOFU's metrics."""
    if evaluation.intervals:
        return {name: Interval(*bounds) for name, bounds in evaluation.intervals.items()}
    return tofu_intervals(evaluation.per_example, evaluation.dialect)


def tofu_intervals(per_example: Mapping[str, Sequence[Row]], dialect: Dialect) -> dict[str, Interval]:
    """By metric's name; without those that are no means, could not be computed, or have a single row."""
    scores = {split: row_scores(per_example.get(split) or [], split, dialect) for split in SPLITS}
    found: dict[str, Interval] = {}
    for split in SPLITS:
        for name in SCORES:
            values = scores[split][name]
            if values and len(values) > 1:
                found[f"{split}_{name}"] = mean_interval(values)
    utility = [f"{split}_{name}" for split in UTILITY_SPLITS for name in SCORES]
    if all(name in found for name in utility):
        found["model_utility"] = _utility_interval(
            [np.column_stack([scores[split][name] or [] for name in SCORES]) for split in UTILITY_SPLITS]
        )
    return found


def mean_interval(values: Sequence[float]) -> Interval:
    """Interval of the mean of two values or more."""
    result = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    )
    return Interval(*map(float, result.confidence_interval))


def _utility_interval(splits: Sequence[np.ndarray]) -> Interval:
    """Interval of model utility; each split's rows, an array (rows, 3), are drawn anew as whole rows."""

    def utility(*drawn: np.ndarray) -> float:
        means = [rows[chosen].mean(axis=0) for rows, chosen in zip(splits, drawn, strict=True)]
        return model_utility(np.concatenate(means).tolist())

    result = bootstrap(
        [np.arange(len(rows)) for rows in splits],
        utility,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    return Interval(*map(float, result.confidence_interval))
