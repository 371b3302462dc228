"""A finished run as the report reads it back from its directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.sources import file_layer, read_text
from altpo_ds.evaluate.metrics import Dialect, Row
from altpo_ds.evaluate.stored import StoredConfig, StoredEvaluation, StoredLine, check


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json: metrics by name, rows by split, the settings they depend on, why a metric is null, 95 %
    intervals, and remarks on single metrics.
    """

    metrics: Mapping[str, float | None]
    per_example: Mapping[str, Sequence[Row]]
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        return self.settings.get("dialect", "altpo")

    def rows(self, split: str) -> Sequence[Row]:
        return self.per_example.get(split) or []

    def matching(self, split: str, questions: Sequence[str]) -> Sequence[Row]:
        """The retain model's rows of a split, none where it has none. UserError where they are of other questions."""
        rows = self.rows(split)
        if rows and [row.get("question") for row in rows] != list(questions):
            raise UserError(
                f"retain reference: its {len(rows)} {split} rows are not the {len(questions)} of this evaluation: "
                "evaluate the retain model on the same rows"
            )
        return rows


@dataclass(frozen=True)
class ReportRun:
    """What a run directory holds; None and empty where a file is absent."""

    name: str
    config: Mapping[str, Any]
    config_text: str
    provenance: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    before: Evaluation | None
    after: Evaluation | None
    retain: Evaluation | None
    notes: Sequence[str]

    def setting(self, section: str, key: str, default: Any = None) -> Any:
        return (self.config.get(section) or {}).get(key, default)


def read_runs(run_dirs: Sequence[Path]) -> list[ReportRun]:
    """Several run directories, each under a name that no other one has. Raises as `read_run`."""
    names = distinct_names(run_dirs)
    return [replace(read_run(run_dir), name=name) for run_dir, name in zip(run_dirs, names, strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """As many of each path's last parts as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depths = range(1, max(map(len, parts), default=0) + 1)
    depth = next((d for d in depths if len({part[-d:] for part in parts}) == len(set(parts))), 1)
    return ["/".join(part[-depth:]) for part in parts]


def read_run(run_dir: Path) -> ReportRun:
    """Read a run directory. Raises UserError where config.yaml is absent or a file is not what it should be."""
    config_file = run_dir / "config.yaml"
    if not config_file.is_file():
        raise UserError(f"{run_dir}: not a run directory (no config.yaml): give the run_dir of a run")
    config = file_layer(config_file).values
    check(config, StoredConfig, config_file)
    config_text = config_file.read_text(encoding="utf-8")

    notes = []
    provenance_file = run_dir / "provenance.json"
    if not provenance_file.is_file():
        notes.append("provenance.json is absent: where the numbers come from is not recorded.")
    retain_path = (config.get("evaluate") or {}).get("retain_reference")
    retain = _read_evaluation(_beside(run_dir, retain_path)) if retain_path else None
    if retain_path and retain is None:
        notes.append(f"The retain model's evaluation, {retain_path}, is not there any more.")
    return ReportRun(
        name=run_dir.resolve().name,
        config=config,
        config_text=config_text,
        provenance=_read_json(provenance_file) if provenance_file.is_file() else {},
        history=_read_history(run_dir / "metrics.jsonl"),
        before=_read_evaluation(run_dir / "evaluation_before.json"),
        after=_read_evaluation(run_dir / "evaluation.json"),
        retain=retain,
        notes=notes,
    )


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.json. Raises UserError where it is absent or is not one."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: `altpo-ds evaluate` writes it")
    document = _read_json(path)
    check(document, StoredEvaluation, path)
    rest = {part: document.get(part) or {} for part in ("settings", "reasons", "intervals", "notes", "curves")}
    return Evaluation(document["metrics"], document.get("per_example") or {}, **rest)


def _read_evaluation(path: Path) -> Evaluation | None:
    return read_evaluation(path) if path.is_file() else None


def _beside(run_dir: Path, path: str) -> Path:
    """The path as the run saw it, or, where the run directory was moved, next to it."""
    return Path(path) if Path(path).is_file() else run_dir / path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}; write the file anew") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: holds a {type(document).__name__} where an object belongs")
    return document


def _read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl by step; a torn last line, of a run that was killed, is left out."""
    if not path.is_file():
        return []
    lines = read_text(path).splitlines()
    history = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not JSON: {error}; remove the line") from error
        check(entry, StoredLine, f"{path}, line {number}")
        history.append(entry)
    return sorted(history, key=lambda entry: entry["step"])
