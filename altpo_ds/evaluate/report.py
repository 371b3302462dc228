"""The report: one self-contained page that an auditor can read, from what the run directories hold."""

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import write_whole
from altpo_ds.evaluate import plots
from altpo_ds.evaluate.examples import examples
from altpo_ds.evaluate.intervals import Interval, intervals
from altpo_ds.evaluate.ks import KolmogorovSmirnov, ks_test
from altpo_ds.evaluate.metrics import SCORES, SPLITS, forget_ratios
from altpo_ds.evaluate.runs import Evaluation, ReportRun
from altpo_ds.evaluate.summary import HIGHER, NOTHING, label, utility_kept, write_value
from altpo_ds.evaluate.verdict import comparability, forgotten, kept

EXAMPLES = 8
ORIGINAL_MODEL, UNLEARNED_MODEL, RETAIN_MODEL = "original model", "unlearned model", "retain model"
HEADLINES = ("forget_quality", "forget_quality_log10", "forget_quality_ks", "model_utility")
COMPARED = (
    "forget_quality",
    "model_utility",
    "forget_probability",
    "forget_rouge_l",
    "retain_probability",
    "retain_rouge_l",
)


class Plot(NamedTuple):
    title: str
    uri: str
    description: str


def write_report(out: Path, runs: Sequence[ReportRun]) -> None:
    """Write the page of one run, or of several side by side. Raises UserError for no run."""
    if not runs:
        raise UserError("report: no run given: name at least one run directory")
    environment = Environment(
        loader=PackageLoader("altpo_ds.evaluate", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html.jinja").render(
        runs=[_run_context(run) for run in runs],
        comparison=_comparison(runs) if len(runs) > 1 else None,
        nothing=NOTHING,
    )
    write_whole(out, page)


def _run_context(run: ReportRun) -> dict[str, Any]:
    bounds = intervals(run.after) if run.after else {}
    count = run.setting("tracking", "examples", EXAMPLES)
    test = _forget_test(run)
    return {
        "name": run.name,
        "method": _method(run),
        "notes": [*run.notes, *comparability(run)],
        "verdicts": [forgotten(run, bounds), kept(run, bounds)] if run.after else [],
        "plots": _plots(run, test),
        "metrics": _metric_rows(run, bounds),
        "reasons": dict(run.after.reasons) if run.after else {},
        "examples": [
            ("Questions to forget", examples(run, "forget", count)),
            ("Questions to keep", examples(run, "retain", (count + 1) // 2)),
        ],
        "settings": _flat(run.after.settings) if run.after else [],
        "provenance": _flat(run.provenance),
        "command": _command(run.provenance),
        "config": run.config_text,
    }


def _method(run: ReportRun) -> str:
    return (
        f"{run.setting('objective', 'name', 'altpo')} · beta {run.setting('objective', 'beta', NOTHING)} · "
        f"{run.setting('data', 'alternates_per_question', NOTHING)} alternates · "
        f"lr {run.setting('train', 'lr', NOTHING)} · "
        f"{run.history[-1]['step'] if run.history else NOTHING} steps"
    )


def _forget_samples(run: ReportRun) -> dict[str, list[float]]:
    models = (("before", run.before), ("after", run.after), ("retain model", run.retain))
    return {
        heading: forget_ratios(evaluation.rows("forget"), evaluation.dialect)
        for heading, evaluation in models
        if evaluation and _has_ratios(evaluation)
    }


def _has_ratios(evaluation: Evaluation) -> bool:
    rows = evaluation.rows("forget")
    return bool(rows) and all(row.get("perturbed_nll") and row.get("paraphrased_nll") is not None for row in rows)


def _forget_test(run: ReportRun) -> KolmogorovSmirnov | None:
    samples = _forget_samples(run)
    if "after" not in samples or "retain model" not in samples:
        return None
    return ks_test(samples["after"], samples["retain model"], "forget quality")


def _plots(run: ReportRun, test: KolmogorovSmirnov | None) -> list[Plot]:
    found = []
    path = [
        (line["eval/model_utility"], quality)
        for line in run.history
        if line.get("eval/model_utility") is not None
        and (quality := _log10_quality(line, "eval/forget_quality")) is not None
    ]
    trade_off = _trade_off_plot(_points(run), path)
    if trade_off:
        found.append(trade_off)
    samples = _forget_samples(run)
    if samples:
        distance = f"; largest gap between after and retain model {test.statistic:.3f}" if test else ""
        found.append(
            _plot(
                "Truth ratios of the forget rows",
                plots.distributions(samples, test),
                f"Cumulative distributions of the truth ratio: {', '.join(samples)}{distance}",
            )
        )
    losses = {"train/loss": "total", "train/loss_forget": "forget", "train/loss_retain": "retain"}
    ratios = {
        "train/log_ratio_alternate": "alternate answers",
        "train/log_ratio_forget": "original answers",
    }
    for title, names, ylabel in (
        ("Losses", losses, "loss"),
        ("Log ratios to the reference", ratios, "log π(policy) − log π(reference)"),
    ):
        drawn = plots.curves(run.history, names, ylabel)
        if drawn:
            found.append(_plot(title, drawn, f"{title} over the optimizer steps: {', '.join(names.values())}"))
    return found


def _trade_off_plot(points: Sequence[plots.Point], path: Sequence[tuple[float, float]] = ()) -> Plot | None:
    """None where there is no unlearned model to show."""
    if all(point.label == RETAIN_MODEL for point in points):
        return None
    where = "; ".join(
        f"{point.label}: utility {point.utility:.3f}, log10 p {point.log10_quality:.1f}" for point in points
    )
    return _plot("Forgetting against keeping", plots.trade_off(points, path), f"Models: {where}")


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


def _log10_quality(metrics: Mapping[str, Any], name: str = "forget_quality") -> float | None:
    """log10 p as it was measured or, where only p was, its logarithm."""
    pvalue = metrics.get(name)
    return metrics.get(f"{name}_log10", math.log10(pvalue) if pvalue else None)


def _plot(title: str, svg: str, description: str) -> Plot:
    encoded = base64.b64encode(svg.encode()).decode()
    return Plot(title, f"data:image/svg+xml;base64,{encoded}", description)


def _metric_rows(run: ReportRun, bounds: Mapping[str, Interval]) -> list[tuple[str, list[str], str]]:
    """(label, [before, after, retain model], interval of after) of every metric, the known ones first."""
    evaluations = [evaluation.metrics if evaluation else None for evaluation in (run.before, run.after, run.retain)]
    known = [*HEADLINES, *(f"{split}_{name}" for split in SPLITS for name in (*SCORES, "rows"))]
    present = {name: None for metrics in evaluations if metrics for name in metrics}
    names = [name for name in known if name in present] + [name for name in present if name not in known]
    return [
        (
            label(name),
            [write_value(name, metrics) for metrics in evaluations],
            f"{bounds[name].low:.3f} – {bounds[name].high:.3f}" if name in bounds else "",
        )
        for name in names
    ]


def _comparison(runs: Sequence[ReportRun]) -> dict[str, Any]:
    evaluated = [run.after for run in runs if run.after]
    bases = {(item.dialect, item.metrics.get("forget_rows")) for item in evaluated}
    rows = []
    for run in runs:
        metrics = run.after.metrics if run.after else None
        share = utility_kept(run.before.metrics if run.before else None, metrics)
        cells = [write_value(name, metrics) for name in COMPARED]
        cells.insert(2, f"{share:.0%}" if share is not None else NOTHING)
        rows.append((run.name, _method(run), cells))
    headings = [label(name) for name in COMPARED]
    headings.insert(2, f"Utility kept\N{NO-BREAK SPACE}{HIGHER}")
    comparable = len(bases) < 2
    return {
        "headings": headings,
        "rows": rows,
        "comparable": comparable,
        "plot": _trade_off_plot(_points_of_runs(runs)) if comparable else None,
    }


def _points_of_runs(runs: Sequence[ReportRun]) -> list[plots.Point]:
    """The unlearned model of each run, by the run's name, and the first run's original and retain model."""
    points = [point for point in _points(runs[0]) if point.label != UNLEARNED_MODEL]
    for number, run in enumerate(runs):
        points += [
            point._replace(label=run.name, colour=f"C{number % 10}")
            for point in _points(run)
            if point.label == UNLEARNED_MODEL
        ]
    return points


def _command(provenance: Mapping[str, Any]) -> str:
    command = provenance.get("command")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    return str(command) if command else "altpo-ds unlearn config.yaml"


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs."""
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [pair for number, item in enumerate(value, 1) for pair in _flat(item, f"{name}.{number}")]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [(name, NOTHING if value is None else str(value))]
