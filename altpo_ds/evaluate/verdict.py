"""The answers at the top of the report: what was forgotten, what was kept, and whether the figures compare."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from altpo_ds.evaluate.intervals import Interval
from altpo_ds.evaluate.ks import INDISTINGUISHABLE, few_rows
from altpo_ds.evaluate.metrics import SPLITS
from altpo_ds.evaluate.runs import ReportRun
from altpo_ds.evaluate.summary import NOTHING, label, utility_kept, write_value


class Verdict(NamedTuple):
    """One of the two answers at the top: a heading, before → after, and what it means."""

    heading: str
    good: bool | None
    figures: str
    meaning: str
    details: Sequence[str]


def forgotten(run: ReportRun, bounds: Mapping[str, Interval]) -> Verdict:
    """Of an evaluated run: whether forget quality is above 0.05, from what it rose, with n and dialect."""
    assert run.after
    metrics, before = run.after.metrics, run.before.metrics if run.before else None
    quality, rows = metrics.get("forget_quality"), write_value("forget_rows", metrics)
    details = [
        f"{label(name)}: {_change(name, before, metrics, bounds)}"
        for name in ("forget_quality_ks", "forget_probability", "forget_rouge_l", "forget_truth_ratio")
    ]
    basis = f"n = {rows} forget rows, dialect {run.after.dialect}"
    if quality is None:
        reason = run.after.reasons.get("forget_quality", "the evaluation does not hold it")
        return Verdict("Forgotten?", None, f"forget quality {NOTHING}", f"Not measured: {reason} ({basis}).", details)
    figures = f"forget quality {_change('forget_quality', before, metrics, {})}"
    if quality <= INDISTINGUISHABLE:
        meaning = f"Not above {INDISTINGUISHABLE}: the model still differs from one that never saw these rows"
        return Verdict("Not forgotten", False, figures, f"{meaning} ({basis}).", details)
    meaning = f"Above {INDISTINGUISHABLE}: on these rows the test cannot tell the model from one that never saw them"
    was = (before or {}).get("forget_quality")
    if was is not None and was > INDISTINGUISHABLE:
        meaning += "; but it was above before, so this run shows no forgetting"
        return Verdict("Forgotten?", None, figures, f"{meaning} ({basis}).", details)
    weak = few_rows(int(metrics.get("forget_rows") or 0))
    if weak:  # no success is announced that the test could hardly have denied
        heading = f"Forgotten, as far as {rows} rows can tell"
        return Verdict(heading, None, figures, f"{meaning} ({basis}); {weak}.", details)
    return Verdict("Forgotten", True, figures, f"{meaning} ({basis}).", details)


def kept(run: ReportRun, bounds: Mapping[str, Interval]) -> Verdict:
    """Of an evaluated run: model utility before and after, and the share kept."""
    assert run.after
    metrics, before = run.after.metrics, run.before.metrics if run.before else None
    details = [
        f"{label(name)}: {_change(name, before, metrics, bounds)}"
        for name in ("retain_probability", "retain_rouge_l", "retain_truth_ratio")
    ]
    figures = f"model utility {_change('model_utility', before, metrics, bounds)}"
    share = utility_kept(before, metrics)
    if metrics.get("model_utility") is None:
        reason = run.after.reasons.get("model_utility", "the evaluation does not hold it")
        return Verdict("Kept?", None, f"model utility {NOTHING}", f"Not measured: {reason}.", details)
    meaning = (
        f"{share:.0%} of the model utility before unlearning."
        if share is not None
        else "The model was not evaluated before unlearning, so the share kept is not known."
    )
    return Verdict(f"Kept {share:.0%}" if share is not None else "Kept?", None, figures, meaning, details)


def _change(
    name: str,
    before: Mapping[str, float | None] | None,
    after: Mapping[str, float | None],
    bounds: Mapping[str, Interval],
) -> str:
    """`before → after [95 % interval]`, or after alone."""
    start = f"{write_value(name, before)} → " if before else ""
    interval = f" [{bounds[name].low:.3f}, {bounds[name].high:.3f}]" if name in bounds else ""
    return start + write_value(name, after) + interval


def comparability(run: ReportRun) -> list[str]:
    """Warnings where before, after and retain were not measured alike."""
    notes = []
    if run.after is None:
        return ["This run has not been evaluated yet: `altpo-ds evaluate` writes evaluation.json."]
    if run.before is None:
        notes.append("No evaluation from before unlearning (evaluation_before.json): only the end is shown.")
    for heading, other in (("before", run.before), ("retain model", run.retain)):
        if other is None:
            continue
        if other.dialect != run.after.dialect:
            notes.append(
                f"Not comparable: {heading} was evaluated in dialect {other.dialect}, "
                f"the model after in {run.after.dialect}."
            )
        sizes = [(len(other.rows(split)), len(run.after.rows(split)), split) for split in SPLITS]
        notes += [
            f"Not comparable: {heading} has {theirs} {split} rows, the model after {ours}."
            for theirs, ours, split in sizes
            if theirs != ours
        ]
    return notes
