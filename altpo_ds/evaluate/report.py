"""The report: one self-contained page that an auditor can read, from what the run directories hold."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import write_whole
from altpo_ds.evaluate.comparison import compare, method
from altpo_ds.evaluate.examples import examples
from altpo_ds.evaluate.figures import run_plots
from altpo_ds.evaluate.intervals import intervals
from altpo_ds.evaluate.runs import ReportRun
from altpo_ds.evaluate.summary import NOTHING
from altpo_ds.evaluate.table import metric_groups
from altpo_ds.evaluate.verdict import comparability, forgotten, kept

EXAMPLES = 8


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
        runs=[_named_context(run) for run in runs], comparison=compare(runs) if len(runs) > 1 else None
    )
    write_whole(out, page)


def _named_context(run: ReportRun) -> dict[str, Any]:
    """A row that does not fit the others is looked for in the evaluations of this run."""
    try:
        return _run_context(run)
    except UserError as error:
        raise UserError(f"{run.name}: {error}") from error


def _run_context(run: ReportRun) -> dict[str, Any]:
    bounds = intervals(run.after) if run.after else {}
    count = run.setting("tracking", "examples", EXAMPLES)
    return {
        "name": run.name,
        "method": method(run),
        "notes": [*run.notes, *comparability(run)],
        "verdicts": [forgotten(run, bounds), kept(run, bounds)] if run.after else [],
        "plots": run_plots(run),
        "metrics": metric_groups(run, bounds),
        "examples": [
            ("Questions to forget", examples(run, "forget", count)),
            ("Questions to keep", examples(run, "retain", (count + 1) // 2)),
        ],
        "settings": _flat(run.after.settings) if run.after else [],
        "provenance": _flat(run.provenance),
        "command": _command(run.provenance),
        "ranks": run.provenance.get("world_size"),
        "config": run.config_text,
    }


def _command(provenance: Mapping[str, Any]) -> str:
    """The recorded command; the module's own path stands for `python -m altpo_ds`."""
    command = provenance.get("command")
    if isinstance(command, list) and command:
        first = "altpo-ds" if Path(str(command[0])).name in ("__main__.py", "altpo-ds") else str(command[0])
        return shlex.join([first, *map(str, command[1:])])
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
