"""Several runs side by side: a table, and the runs that no other one beats."""

from collections.abc import Sequence
from typing import NamedTuple

from altpo_ds.evaluate.figures import Plot, comparison_plot, unlearned_point
from altpo_ds.evaluate.runs import ReportRun
from altpo_ds.evaluate.summary import HIGHER, NOTHING, label, utility_kept, write_value

COMPARED = (
    "forget_quality",
    "model_utility",
    "forget_probability",
    "forget_rouge_l",
    "retain_probability",
    "retain_rouge_l",
)


class ComparisonRow(NamedTuple):
    name: str
    method: str
    cells: Sequence[str]
    on_front: bool


class Comparison(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[ComparisonRow]
    comparable: bool
    plot: Plot | None


def compare(runs: Sequence[ReportRun]) -> Comparison:
    """The table; plot and Pareto front only where all runs were evaluated alike."""
    evaluated = [run.after for run in runs if run.after]
    comparable = len({(item.dialect, item.metrics.get("forget_rows")) for item in evaluated}) < 2
    found = [unlearned_point(run) for run in runs]
    places = {number: (point.utility, point.log10_quality) for number, point in enumerate(found) if point}
    front = pareto_front(places) if comparable else []
    headings = [label(name) for name in COMPARED]
    headings.insert(2, f"Utility kept\N{NO-BREAK SPACE}{HIGHER}")
    rows = [ComparisonRow(run.name, method(run), _cells(run), number in front) for number, run in enumerate(runs)]
    return Comparison(headings, rows, comparable, comparison_plot(runs, front) if comparable else None)


def pareto_front(places: dict[int, tuple[float, float]]) -> list[int]:
    """Keys of the pairs that none of the others beats: at least as good in both figures, better in one."""
    return [
        key
        for key, (x, y) in places.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in places.values())
    ]


def method(run: ReportRun) -> str:
    """How a run unlearned, in a line."""
    return (
        f"{run.setting('objective', 'name', 'altpo')} · beta {run.setting('objective', 'beta', NOTHING)} · "
        f"{run.setting('data', 'alternates_per_question', NOTHING)} alternates · "
        f"lr {run.setting('train', 'lr', NOTHING)} · "
        f"{run.history[-1]['step'] if run.history else NOTHING} steps"
    )


def _cells(run: ReportRun) -> list[str]:
    metrics = run.after.metrics if run.after else None
    share = utility_kept(run.before.metrics if run.before else None, metrics)
    cells = [write_value(name, metrics) for name in COMPARED]
    cells.insert(2, f"{share:.0%}" if share is not None else NOTHING)
    return cells
