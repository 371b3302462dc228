"""The suite `privacy`: what the model has memorized, and whether its scores give away what it was trained on."""

from collections.abc import Mapping, Sequence

from altpo_ds.data.trees import Tree
from altpo_ds.evaluate.context import Context, by_split
from altpo_ds.evaluate.inputs import HOLDOUT
from altpo_ds.evaluate.metrics import Row
from altpo_ds.evaluate.privacy_metrics import membership_auc, privleak, relative_difference
from altpo_ds.evaluate.result import Result
from altpo_ds.evaluate.runs import Evaluation

MEMORIZATION = ("exact_memorization", "extraction_strength")
ATTACKS = {"loss": "answer_nll", "zlib": "zlib", "min_k": "min_k", "min_k_plus_plus": "min_k_plus_plus"}
COMPARED = (*ATTACKS, "gradient_norm")
REFERENCE = "needs the retain model's evaluation with the suite privacy and the same rows (evaluate.retain_reference)"


def privacy(context: Context) -> Result:
    """Memorization of forget and retain rows; membership attacks on forget against holdout rows."""
    result = Result()
    for split, rows in context.likelihoods.items():
        result.columns(split, rows)
    for split in ("forget", "retain"):
        rows = context.likelihoods.get(split, [])
        for name in MEMORIZATION:
            result.mean(f"{split}_{name}", [row[name] for row in rows], f"no {split} rows were given")
    forget, holdout = context.likelihoods["forget"], context.likelihoods.get(HOLDOUT, [])
    result.metrics["holdout_rows"] = len(holdout)
    for attack, column in ATTACKS.items():
        _attack(result, attack, _column(forget, column), _column(holdout, column))
    _gradient_norms(context, result)
    differences = [_without_reference(rows, context.reference, split) for split, rows in _pair(forget, holdout)]
    _attack(result, "reference", *differences, reason=REFERENCE)
    compare(result, context.reference)
    return result


def _gradient_norms(context: Context, result: Result) -> None:
    """Of the NLL of each answer without its end-of-turn token."""
    attacked = [example for example in context.examples if example.split in ("forget", HOLDOUT)]
    norms = None
    if result.metrics["holdout_rows"]:
        trees = [Tree(example.tree.prompt, (example.tree.responses[0][:-1],)) for example in attacked]
        norms = context.gradient_norms(trees)
    found = by_split(attacked, norms) if norms else {}
    for split, values in found.items():
        result.columns(split, [{"gradient_norm": value} for value in values])
    reason = "needs a whole copy of the model on each rank, which does not fit"
    _attack(result, "gradient_norm", found.get("forget", []), found.get(HOLDOUT, []), reason)


def _pair(forget: Sequence[Row], holdout: Sequence[Row]) -> list[tuple[str, Sequence[Row]]]:
    return [("forget", forget), (HOLDOUT, holdout)]


def _column(rows: Sequence[Row], column: str) -> list[float]:
    return [row[column] for row in rows]


def _attack(result: Result, name: str, forget: Sequence[float], holdout: Sequence[float], reason: str = "") -> None:
    """AUC of one attack with its interval."""
    metric = f"mia_{name}_auc"
    if not result.metrics["holdout_rows"]:
        result.lack(metric, "needs rows that no model has seen (evaluate.holdout)")
    elif not forget or not holdout:
        result.lack(metric, reason)
    else:
        auc = membership_auc(forget, holdout)
        result.metrics[metric], result.intervals[metric] = auc.value, auc.interval


def _without_reference(rows: Sequence[Row], reference: Evaluation | None, split: str) -> list[float]:
    """NLL of each row's answer less that under the retain model; none where the latter is unknown."""
    others = reference.matching(split, [row["question"] for row in rows]) if reference else []
    if not others:
        return []
    # What rounding differs by, from one packing of the rows to another, ranks no row above another.
    return [round(row["answer_nll"] - other["answer_nll"], 4) for row, other in zip(rows, others, strict=True)]


def compare(result: Result, reference: Evaluation | None) -> None:
    """privleak, and the relative difference of each attack's AUC, against the retain model's."""
    known: Mapping[str, float | None] = reference.metrics if reference else {}
    for metric in [f"mia_{attack}_auc" for attack in COMPARED]:
        names = {metric.replace("_auc", "_rel_diff"): relative_difference}
        if metric == "mia_min_k_auc":
            names["privleak"] = privleak
        value, other = result.metrics[metric], known.get(metric)
        for name, function in names.items():
            if value is None:
                result.lack(name, result.reasons[metric])
            elif other is None:
                result.lack(name, REFERENCE)
            else:
                result.metrics[name] = function(value, other)
