"""What a sweep has found: a table, the Pareto front, what the parameters matter, and a report over all trials."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from altpo_ds.config.files import write_whole
from altpo_ds.evaluate.report import write_report
from altpo_ds.evaluate.runs import read_runs
from altpo_ds.sweep.file import Metric
from altpo_ds.sweep.study import BOTH, METRICS, Study, parameters_of

SUMMARY, REPORT = "sweep.json", "report.html"


def summarize(study: Study, console: Console) -> None:
    """Prints the table and the importances; writes sweep.json and, where trials have ended, report.html."""
    metrics = list({metric.name: metric for metric in (*study.objectives, *BOTH)}.values())
    trials = study.trials
    values = {trial.number: trial.user_attrs.get(METRICS, {}) for trial in trials}
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    front = pareto_front({trial.number: values[trial.number] for trial in ended}, BOTH)
    weights = {metric.name: importances(study.study, metric) for metric in metrics}
    console.print(_table(study, trials, values, metrics, front))
    for trial in trials:
        if failure := trial.user_attrs.get("failure"):
            console.print(f"{study.name(trial.number)} failed: {failure}", highlight=False, markup=False)
    console.print(_front_line([study.name(number) for number in front]), highlight=False)
    for name, of_metric in weights.items():
        told = ", ".join(f"{key} {share:.0%}" for key, share in of_metric.items()) if of_metric else "too few trials"
        console.print(f"importance for {name}: {told}", highlight=False)
    described = [_describe(study, trial, values[trial.number], trial.number in front) for trial in trials]
    document = {"trials": described, "pareto_front": [study.name(n) for n in front], "importances": weights}
    folder = study.sweep.folder
    write_whole(folder / SUMMARY, json.dumps(document, indent=1) + "\n")
    runs = [study.sweep.run_dir(study.name(trial.number)) for trial in ended]
    if runs := [run for run in runs if (run / "config.yaml").is_file()]:
        write_report(folder / REPORT, read_runs(runs))
        console.print(str(folder / REPORT), highlight=False, soft_wrap=True)


def pareto_front(values: Mapping[int, Mapping[str, float]], metrics: Sequence[Metric]) -> list[int]:
    """The trials that no other one beats in a metric without losing in another; those without all metrics are out."""
    signs = [1.0 if metric.goal == "maximize" else -1.0 for metric in metrics]
    points = {
        number: [sign * of_trial[metric.name] for sign, metric in zip(signs, metrics, strict=True)]
        for number, of_trial in values.items()
        if all(metric.name in of_trial for metric in metrics)
    }
    return [number for number, point in points.items() if not any(_beats(other, point) for other in points.values())]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def importances(study: optuna.Study, metric: Metric) -> dict[str, float] | None:
    """Shares by which the parameters decide who is among the best (PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255).

    None where the trials are too few or too alike to tell.
    """
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if not complete or any(metric.name not in trial.user_attrs.get(METRICS, {}) for trial in complete):
        return None
    sign = -1.0 if metric.goal == "maximize" else 1.0  # the evaluator asks what leads to low values
    varied = [name for name in complete[0].params if len({str(trial.params[name]) for trial in complete}) > 1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shares = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            params=varied,
            target=lambda trial: sign * trial.user_attrs[METRICS][metric.name],
        )
    if not shares or any("will be equal" in str(warning.message) for warning in caught):
        return None
    return {name: float(share) for name, share in shares.items()}


def _describe(study: Study, trial: FrozenTrial, metrics: Mapping[str, float], on_front: bool) -> dict[str, Any]:
    return {
        "name": study.name(trial.number),
        "state": trial.state.name.lower(),
        "parameters": parameters_of(trial),
        "metrics": dict(metrics),
        "failure": trial.user_attrs.get("failure"),
        "pareto": on_front,
    }


def _table(
    study: Study,
    trials: Sequence[FrozenTrial],
    values: Mapping[int, Mapping[str, float]],
    metrics: Sequence[Metric],
    front: Sequence[int],
) -> Table:
    names = list(study.sweep.file.parameters)
    table = Table(title=f"{study.sweep.file.name or study.sweep.path.stem}: {len(trials)} trials", title_justify="left")
    for heading in ("trial", "state", *(name.rpartition(".")[2] for name in names)):
        table.add_column(heading)
    for metric in metrics:
        arrow = "↑" if metric.goal == "maximize" else "↓"
        table.add_column(f"{metric.name.rpartition('/')[2]} {arrow}", justify="right")
    for trial in trials:
        given, of_trial = parameters_of(trial), values[trial.number]
        cells = [_short(given.get(name)) for name in names]
        cells += [_short(of_trial.get(metric.name)) for metric in metrics]
        style = "bold" if trial.number in front else None
        table.add_row(study.name(trial.number), trial.state.name.lower(), *cells, style=style)
    return table


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _front_line(names: Sequence[str]) -> str:
    if not names:
        return "Pareto front: empty; no trial has both forget quality and model utility"
    return f"Pareto front of forget quality and model utility: {', '.join(names)}"
