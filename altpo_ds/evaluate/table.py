"""The report's table of all metrics: every figure with its interval, its rows, its dialect, and why one is absent."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from altpo_ds.evaluate.intervals import Interval
from altpo_ds.evaluate.metrics import SCORES, SPLITS
from altpo_ds.evaluate.runs import Evaluation, ReportRun
from altpo_ds.evaluate.summary import SPLIT_LABELS, label, write_value

HEADLINES = ("forget_quality", "forget_quality_log10", "forget_quality_ks", "model_utility")
ROWS = "_rows"
SUITES = {
    "Cleanness": ("text_cleanness", "cleanness_"),
    "Membership attacks": ("mia_", "privleak"),
    "Distance to the retain model": ("fade",),
    "Relearning attack": ("relearning_",),
    "Weights rounded to 8 bits": ("int8_",),
    "Weights rounded to 4 bits": ("int4_",),
    "MUSE": ("muse_",),
    "Language model evaluation harness": ("harness_",),
}


class MetricRow(NamedTuple):
    """`basis`: rows and dialect behind the model after; `remarks`: why a value is absent, what it cannot tell."""

    label: str
    values: Sequence[str]  # before, after, retain model
    interval: str
    basis: str
    remarks: Sequence[str]


class Group(NamedTuple):
    title: str
    rows: Sequence[MetricRow]


def metric_groups(run: ReportRun, bounds: Mapping[str, Interval]) -> list[Group]:
    """Every metric of every model: the headlines, then split by split, then what other suites measured."""
    models = [run.before, run.after, run.retain]
    names = list(dict.fromkeys(name for model in models if model for name in model.metrics if not name.endswith(ROWS)))
    groups = {"Headlines": [name for name in HEADLINES if name in names]}
    left = [name for name in names if name not in HEADLINES]
    for split in SPLITS:
        own = [name for name in left if name.startswith(f"{split}_")]
        first = [f"{split}_{score}" for score in SCORES]
        groups[SPLIT_LABELS[split]] = [name for name in first if name in own] + [n for n in own if n not in first]
    for title, starts in SUITES.items():
        groups[title] = [name for name in left if name.startswith(starts)]
    grouped = {name for of_group in groups.values() for name in of_group}
    groups["Other"] = [name for name in left if name not in grouped]
    return [
        Group(title, [_row(name, models, run.after, bounds) for name in of_group])
        for title, of_group in groups.items()
        if of_group
    ]


def _row(
    name: str, models: Sequence[Evaluation | None], after: Evaluation | None, bounds: Mapping[str, Interval]
) -> MetricRow:
    values = [write_value(name, model.metrics if model else None) for model in models]
    interval = f"{bounds[name].low:.3f} – {bounds[name].high:.3f}" if name in bounds else ""
    basis, remarks = "", []
    if after and name in after.metrics:
        basis = f"{_rows(name, after)}{after.dialect}"
        remarks = [text for text in (after.reasons.get(name), after.notes.get(name)) if text]
    return MetricRow(label(name), values, interval, basis, remarks)


def _rows(name: str, evaluation: Evaluation) -> str:
    """`n = 300, ` where the metric names its split."""
    counts = {split: len(rows) for split, rows in evaluation.per_example.items()}
    split = max((split for split in counts if name.startswith(f"{split}_")), key=len, default=None)
    if name == "model_utility":
        return f"n = {' + '.join(str(counts[split]) for split in SPLITS[1:] if split in counts)}, "
    return f"n = {counts[split]}, " if split else ""
