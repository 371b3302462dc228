"""Which plots the report shows of a run, and of several: each with a title and a description in words."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from altpo_ds.evaluate import plots
from altpo_ds.evaluate.ks import KolmogorovSmirnov, ks_test
from altpo_ds.evaluate.metrics import forget_ratios
from altpo_ds.evaluate.runs import Evaluation, ReportRun

ORIGINAL_MODEL, UNLEARNED_MODEL, RETAIN_MODEL = "original model", "unlearned model", "retain model"
LEGEND = 32  # characters of a name

# (title, label of the axis, column of metrics.jsonl to label)
CURVES = (
    (
        "Evaluations on the way",
        "score",
        {
            "eval/model_utility": "model utility",
            "eval/forget_probability": "forget: probability",
            "eval/forget_rouge_l": "forget: ROUGE-L",
            "eval/forget_truth_ratio": "forget: truth ratio",
        },
    ),
    (
        "Losses",
        "loss",
        {"train/loss": "total", "train/loss_forget": "forget", "train/loss_retain": "retain"},
    ),
    (
        "Log ratios to the reference",
        "log π(policy) − log π(reference)",
        {"train/log_ratio_alternate": "alternate answers", "train/log_ratio_forget": "original answers"},
    ),
)


class Plot(NamedTuple):
    title: str
    uri: str
    description: str


def run_plots(run: ReportRun) -> list[Plot]:
    """Trade-off, truth ratios and curves of one run, those that it has numbers for."""
    found = [_trade_off(_points(run), _path(run)), _truth_ratios(run), _quality_curve(run)]
    for title, ylabel, names in CURVES:
        drawn = plots.curves(run.history, names, ylabel)
        if drawn:
            found.append(_plot(title, drawn, f"{title} over the optimizer steps: {', '.join(names.values())}"))
    return [plot for plot in [*found, _relearning(run)] if plot]


def comparison_plot(runs: Sequence[ReportRun], front: Sequence[int]) -> Plot | None:
    """The unlearned model of each run, by the run's name, with the first run's original and retain model; `front`:
    numbers of the runs that no other one beats.
    """
    points = [point for point in _points(runs[0]) if point.label != UNLEARNED_MODEL]
    line = []
    for number, run in enumerate(runs):
        point = unlearned_point(run)
        if point:
            points.append(point._replace(label=_short(run.name), colour=f"C{number % 10}"))
            line += [(point.utility, point.log10_quality)] if number in front else []
    return _trade_off(points, front=sorted(line))


def _short(name: str) -> str:
    """As much of a name as a legend has room for: its end, where runs differ."""
    return name if len(name) <= LEGEND else f"…{name[1 - LEGEND :]}"


def unlearned_point(run: ReportRun) -> plots.Point | None:
    """The unlearned model's place on the trade-off plane, where both figures are known."""
    return next((point for point in _points(run) if point.label == UNLEARNED_MODEL), None)


def _trade_off(
    points: Sequence[plots.Point], path: Sequence[plots.Stop] = (), front: Sequence[tuple[float, float]] = ()
) -> Plot | None:
    """None where there is no unlearned model to show."""
    if all(point.label == RETAIN_MODEL for point in points):
        return None
    where = "; ".join(
        f"{point.label}: utility {point.utility:.3f}, log10 p {point.log10_quality:z.1f}" for point in points
    )
    return _plot("Forgetting against keeping", plots.trade_off(points, path, front), f"Models: {where}")


def _points(run: ReportRun) -> list[plots.Point]:
    """The models of a run that have both figures; against itself the retain model's forget quality is 1."""
    points = []
    for heading, evaluation, colour, marker in (
        (ORIGINAL_MODEL, run.before, plots.BEFORE, "s"),
        (UNLEARNED_MODEL, run.after, plots.AFTER, "o"),
        (RETAIN_MODEL, run.retain, plots.RETAIN, "D"),
    ):
        utility = evaluation.metrics.get("model_utility") if evaluation else None
        quality = 0.0 if heading == RETAIN_MODEL else _log10_quality(evaluation.metrics if evaluation else {})
        if utility is not None and quality is not None:
            points.append(plots.Point(heading, utility, quality, colour, marker))
    return points


def _path(run: ReportRun) -> list[plots.Stop]:
    """The evaluations during training that have both figures."""
    return [
        plots.Stop(line["step"], line["eval/model_utility"], quality)
        for line in run.history
        if line.get("eval/model_utility") is not None
        and (quality := _log10_quality(line, "eval/forget_quality")) is not None
    ]


def _log10_quality(metrics: Mapping[str, Any], name: str = "forget_quality") -> float | None:
    """log10 p as it was measured or, where only p was, its logarithm."""
    pvalue = metrics.get(name)
    return metrics.get(f"{name}_log10", math.log10(pvalue) if pvalue else None)


def _quality_curve(run: ReportRun) -> Plot | None:
    lines = [
        {"step": line["step"], "quality": quality}
        for line in run.history
        if (quality := _log10_quality(line, "eval/forget_quality")) is not None
    ]
    drawn = plots.curves(lines, {"quality": "forget quality"}, "forget quality, log10 p", threshold=True)
    if not drawn:
        return None
    values = "; ".join(f"step {line['step']}: {line['quality']:z.1f}" for line in (lines[0], lines[-1]))
    return _plot("Forget quality on the way", drawn, f"log10 p of each evaluation during training; {values}")


def _truth_ratios(run: ReportRun) -> Plot | None:
    models = (("before", run.before), ("after", run.after), ("retain model", run.retain))
    samples = {
        heading: forget_ratios(evaluation.rows("forget"), evaluation.dialect)
        for heading, evaluation in models
        if evaluation and _has_ratios(evaluation)
    }
    if not samples:
        return None
    test: KolmogorovSmirnov | None = None
    if "after" in samples and "retain model" in samples:
        test = ks_test(samples["after"], samples["retain model"], "forget quality")
    gap = f"; largest gap between after and retain model (KS statistic) {test.statistic:.3f}" if test else ""
    counts = ", ".join(f"{heading} (n = {len(ratios)})" for heading, ratios in samples.items())
    description = f"Cumulative distributions of the truth ratio: {counts}{gap}"
    return _plot("Truth ratios of the forget rows", plots.distributions(samples, test), description)


def _relearning(run: ReportRun) -> Plot | None:
    """How fast the forgotten comes back under fine-tuning, in the model and in the one that never knew it."""
    models = (("before", run.before), ("after", run.after), ("retain model", run.retain))
    points: dict[int, dict[str, float]] = {}
    for heading, evaluation in models:
        for point in evaluation.curves.get("relearning", []) if evaluation else []:
            points.setdefault(int(point["step"]), {})[heading] = point["probability"]
    lines = [{"step": step, **values} for step, values in sorted(points.items())]
    drawn = plots.curves(lines, {heading: heading for heading, _ in models}, "probability of the forgotten answers")
    if not drawn:
        return None
    described = "Forget answers that the attacker does not have, while it fine-tunes on some that it has"
    return _plot("Relearning attack", drawn, described)


def _has_ratios(evaluation: Evaluation) -> bool:
    rows = evaluation.rows("forget")
    return bool(rows) and all(row.get("perturbed_nll") and row.get("paraphrased_nll") is not None for row in rows)


def _plot(title: str, svg: str, description: str) -> Plot:
    encoded = base64.b64encode(svg.encode()).decode()
    return Plot(title, f"data:image/svg+xml;base64,{encoded}", description)
