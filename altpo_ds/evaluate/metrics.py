"""TOFU's metrics as pure functions of per-row values, in the three dialects in use.

`altpo` (the AltPO authors, and TOFU's aggregation script) and `openunlearning` take the geometric mean over
the perturbed answers, `tofu_trainer` (TOFU's evaluation during training) the arithmetic one; `openunlearning`
adds 1e-10 to denominators. Figures of different dialects, or numbers of rows, are not comparable.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy.special import logsumexp, softmax

from altpo_ds.config.errors import UserError
from altpo_ds.evaluate.ks import few_rows, finite, ks_test

Dialect = Literal["altpo", "tofu_trainer", "openunlearning"]
Row = Mapping[str, Any]
"""A row: answer_nll, paraphrased_nll (means per token), perturbed_nll (a list of such), rouge_l, question."""

SPLITS = ("forget", "retain", "real_authors", "world_facts")
UTILITY_SPLITS = SPLITS[1:]
MULTIPLE_CHOICE = ("real_authors", "world_facts")
SCORES = ("probability", "rouge_l", "truth_ratio")

EPSILON = 1e-10
ROUNDING = 1e-4  # a certain token's NLL may come out just below 0
MAX_LOG_RATIO = 700.0  # exp of it is still a finite float


def probability(nll_mean: float) -> float:
    """exp(-NLL), the NLL a mean over the answer's tokens: their geometric mean probability."""
    return math.exp(-_nll(nll_mean, "nll_mean"))


def normalised_probability(answer_nll: float, perturbed_nlls: Sequence[float], dialect: Dialect) -> float:
    """Probability of the answer among itself and its perturbed versions: p / (p + sum of q)."""
    nlls = np.array([_nll(answer_nll, "answer_nll"), *_nlls(perturbed_nlls, "perturbed_nlls")])
    if dialect == "openunlearning":
        chances = np.exp(-nlls)
        return float(chances[0] / (chances.sum() + EPSILON))
    return float(softmax(-nlls)[0])


def truth_ratio(paraphrased_nll: float, perturbed_nll: Sequence[float], dialect: Dialect = "altpo") -> float:
    """R of one row: probability of the perturbed answers over that of the paraphrased one; always finite."""
    right = _nll(paraphrased_nll, "paraphrased_nll")
    wrong = _nlls(perturbed_nll, "perturbed_nll")
    if dialect == "openunlearning":
        return math.exp(-wrong.mean()) / (math.exp(-right) + EPSILON)
    if dialect == "tofu_trainer":
        log_ratio = right + float(logsumexp(-wrong)) - math.log(len(wrong))
    else:
        log_ratio = right - float(wrong.mean())
    return math.exp(min(max(log_ratio, -MAX_LOG_RATIO), MAX_LOG_RATIO))


def forget_truth_score(ratio: float, dialect: Dialect = "altpo") -> float:
    """min(R, 1/R): 1 where true and false answers are equally likely."""
    inverse = 1 / (ratio + EPSILON) if dialect == "openunlearning" else 1 / ratio if ratio else math.inf
    return min(ratio, inverse)


def utility_truth_score(ratio: float) -> float:
    """max(0, 1 - R): the higher, the more likely the true answer than the false ones."""
    return max(0.0, 1 - ratio)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(prediction: str, reference: str) -> float:
    """Longest common subsequence over the reference's words, lower-cased and stemmed; 0 if either has none."""
    return float(_rouge().score(target=reference, prediction=prediction)["rougeL"].recall)


def rouge_l_f1(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence over the words of both; 0 if either has none."""
    return float(_rouge().score(target=reference, prediction=prediction)["rougeL"].fmeasure)


def model_utility(nine_values: Sequence[float]) -> float:
    """Harmonic mean of probability, ROUGE-L and truth ratio of the three utility splits; 0 if any is 0."""
    values = finite(nine_values, "model utility")
    if len(values) != 9 or values.min() < 0 or values.max() > 1:
        raise UserError(f"model utility: needs nine values between 0 and 1, got {list(nine_values)}")
    if values.min() == 0:
        return 0.0
    return 9 / sum(1 / value for value in values.tolist())


def forget_quality(truth_ratios: Sequence[float], retain_truth_ratios: Sequence[float]) -> float:
    """p-value of the KS test between the forget rows' R under the model and under the retain model."""
    return ks_test(truth_ratios, retain_truth_ratios, "forget quality").pvalue


def cleanness_indistinguishability(clean_scores: Sequence[float], retain_clean_scores: Sequence[float]) -> float:
    """p-value of the KS test between P(clean) of the generations of the model and of the retain model."""
    return ks_test(clean_scores, retain_clean_scores, "cleanness indistinguishability").pvalue


def forget_ratios(rows: Sequence[Row], dialect: Dialect) -> list[float]:
    """R of each forget row as forget quality takes it: the geometric form in every dialect."""
    form: Dialect = "openunlearning" if dialect == "openunlearning" else "altpo"
    return [truth_ratio(row["paraphrased_nll"], row["perturbed_nll"], form) for row in rows]


def row_scores(rows: Sequence[Row], split: str, dialect: Dialect) -> dict[str, list[float] | None]:
    """The scores of each row of a split, whose means are its metrics; None where a column is absent."""
    scores: dict[str, list[float] | None] = dict.fromkeys(SCORES)
    perturbed = _has(rows, "perturbed_nll", split)
    if _has(rows, "answer_nll", split):
        if split not in MULTIPLE_CHOICE:
            scores["probability"] = [probability(row["answer_nll"]) for row in rows]
        elif perturbed:
            scores["probability"] = [
                normalised_probability(row["answer_nll"], row["perturbed_nll"], dialect) for row in rows
            ]
    if _has(rows, "rouge_l", split):
        recalls = finite([row["rouge_l"] for row in rows], f"{split}: rouge_l")
        if recalls.min() < 0 or recalls.max() > 1:
            raise UserError(f"{split}: rouge_l must lie between 0 and 1, got {recalls.min()} to {recalls.max()}")
        scores["rouge_l"] = recalls.tolist()
    if perturbed and _has(rows, "paraphrased_nll", split):
        ratios = [truth_ratio(row["paraphrased_nll"], row["perturbed_nll"], dialect) for row in rows]
        scores["truth_ratio"] = (
            [forget_truth_score(ratio, dialect) for ratio in ratios]
            if split == "forget"
            else [utility_truth_score(ratio) for ratio in ratios]
        )
    return scores


def version_scores(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Per row, by metric's name: probability of the paraphrased answer, geometric mean probability of the perturbed
    ones, and the share of the former in the sum of both (OpenUnlearning's `prob_mean`: how far the fact is known).
    """
    right = [probability(row["paraphrased_nll"]) for row in rows]
    wrong = [math.exp(-float(_nlls(row["perturbed_nll"], "perturbed_nll").mean())) for row in rows]
    known = [c / (c + w + EPSILON) for c, w in zip(right, wrong, strict=True)]
    return {"paraphrased_probability": right, "perturbed_probability": wrong, "truth_probability": known}


def tofu_metrics(
    splits: Mapping[str, Sequence[Row]], dialect: Dialect, reference: Sequence[Row] | None = None
) -> dict[str, float | None]:
    """All metrics by name; None where one cannot be computed (`tofu_reasons` says why).

    `reference`: the retain model's rows of the same forget questions. Raises UserError for a value that is
    not a finite number, a column that only some rows have, and a reference of other questions.
    """
    metrics: dict[str, float | None] = {"forget_quality": None, "forget_quality_ks": None}
    metrics |= {"forget_quality_log10": None, "model_utility": None}
    for split in SPLITS:
        rows = splits.get(split) or []
        scores = row_scores(rows, split, dialect)
        metrics |= {f"{split}_{name}": _mean(scores[name]) for name in SCORES}
        metrics[f"{split}_rows"] = len(rows)

    nine = [metrics[f"{split}_{name}"] for split in UTILITY_SPLITS for name in SCORES]
    complete = [value for value in nine if value is not None]
    if len(complete) == len(nine):
        metrics["model_utility"] = model_utility(complete)

    forget = splits.get("forget") or []
    if reference and metrics["forget_truth_ratio"] is not None:
        _check_reference(forget, reference)
        test = ks_test(forget_ratios(forget, dialect), forget_ratios(reference, dialect), "forget quality")
        metrics["forget_quality"] = test.pvalue
        metrics["forget_quality_ks"] = test.statistic
        metrics["forget_quality_log10"] = test.log10_pvalue
    return metrics


def tofu_reasons(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Why each metric of `tofu_metrics` that is None could not be computed."""
    reasons: dict[str, str] = {}
    for split in SPLITS:
        missing = [f"{split}_{name}" for name in SCORES if metrics[f"{split}_{name}"] is None]
        why = "the rows lack a column that it needs" if metrics[f"{split}_rows"] else f"no {split} rows were given"
        reasons |= dict.fromkeys(missing, why)
    if metrics["model_utility"] is None:
        missing = [f"{split}_{name}" for split in UTILITY_SPLITS for name in SCORES if f"{split}_{name}" in reasons]
        reasons["model_utility"] = "needs nine values; missing: " + ", ".join(missing)
    if metrics["forget_quality"] is None:
        needs_reference = "needs the retain model's evaluation of the same rows (evaluate.retain_reference)"
        why = reasons.get("forget_truth_ratio", needs_reference)
        reasons |= {name: why for name in metrics if name.startswith("forget_quality")}
    return reasons


def tofu_notes(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Where forget quality rests on few rows: what it cannot see."""
    rows = int(metrics["forget_rows"] or 0)
    note = few_rows(rows) if metrics["forget_quality"] is not None else None
    return {"forget_quality": note} if note else {}


def _mean(values: Sequence[float] | None) -> float | None:
    return float(np.mean(values)) if values else None


def _has(rows: Sequence[Row], column: str, split: str) -> bool:
    """Whether the rows have the column; absent, None and [] count as not having it."""
    lacking = [number for number, row in enumerate(rows, 1) if row.get(column) in (None, [])]
    if lacking and len(lacking) < len(rows):
        raise UserError(
            f"{split}, row {lacking[0]}: no {column}, which other rows have: give it to all rows or to none"
        )
    return bool(rows) and not lacking


def _check_reference(rows: Sequence[Row], reference: Sequence[Row]) -> None:
    for column in ("paraphrased_nll", "perturbed_nll"):
        if not _has(reference, column, "retain reference"):
            raise UserError(f"retain reference: its forget rows have no {column}: evaluate the retain model again")
    if len(rows) != len(reference):
        raise UserError(
            f"retain reference: {len(reference)} forget rows, the model was evaluated on {len(rows)}: "
            "evaluate the retain model on the same rows"
        )
    for number, (row, other) in enumerate(zip(rows, reference, strict=True), 1):
        if row.get("question") != other.get("question"):
            raise UserError(
                f"retain reference, forget row {number}: question {other.get('question')!r} is not "
                f"{row.get('question')!r}: evaluate the retain model on the same rows"
            )


def _nlls(values: Sequence[float], name: str) -> np.ndarray:
    array = finite(values, name)
    if array.min() < -ROUNDING:
        raise UserError(f"{name}: {array.min()} is negative; an NLL is -log of a probability, at least 0")
    return np.maximum(array, 0.0)


def _nll(value: float, name: str) -> float:
    return float(_nlls([value], name)[0])
