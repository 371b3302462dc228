"""The suite `tofu`: forgetting and utility on TOFU's splits (Maini et al. 2024)."""

from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.metrics import (
    rouge_l_recall,
    tofu_metrics,
    tofu_notes,
    tofu_reasons,
    truth_ratio,
    version_scores,
)
from altpo_ds.evaluate.result import Result


def tofu(context: Context) -> Result:
    """Likelihoods, greedy generations, and the aggregates made of them."""
    dialect = context.settings.dialect
    result = Result()
    for split, generations in context.generations.items():
        for row, generation in zip(context.likelihoods[split], generations, strict=True):
            ratio = truth_ratio(row["paraphrased_nll"], row["perturbed_nll"], dialect)
            rouge = rouge_l_recall(generation, row["answer"])
            scores = {"generation": generation, "rouge_l": rouge, "truth_ratio": ratio}
            result.per_example.setdefault(split, []).append({**row, **scores})
    reference = context.reference.rows("forget") if context.reference else None
    result.metrics = tofu_metrics(result.per_example, dialect, reference)
    result.reasons = tofu_reasons(result.metrics)
    result.notes = tofu_notes(result.metrics)
    for name, scores in version_scores(result.per_example.get("forget", [])).items():
        result.mean(f"forget_{name}", scores, "no forget rows were given")
    return result
