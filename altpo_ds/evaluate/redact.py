"""A run for outsiders: figures and settings, without anybody's text, paths or names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from altpo_ds.evaluate.runs import Evaluation, ReportRun

WITHHELD = "(withheld)"
# Strings that come from a list of this program; every other one may tell of people, places or machines.
WORDS = {
    "altpo",
    "sft",
    "nll",
    "kl",
    "none",
    "cached",
    "online",
    "tree",
    "padded",
    "auto",
    "float32",
    "bfloat16",
    "float16",
    "linear",
    "cosine",
    "constant",
    "stop",
    "skip",
    "tofu_trainer",
    "openunlearning",
    "transformers",
    "openai",
    "vllm",
    "self",
    "tofu",
    "quality",
    "privacy",
}
PROVENANCE = ("versions", "git_commit", "world_size", "steps", "rows")


def redacted(run: ReportRun, number: int) -> ReportRun:
    """The run as `run N`, without example answers; texts in its settings only where they are this program's words."""
    config = _settings(run.config) | {"tracking": {"examples": 0}}
    data = run.provenance.get("data")
    provenance = {key: run.provenance[key] for key in PROVENANCE if key in run.provenance}
    if isinstance(data, Mapping):
        provenance["data"] = {name: _files(described) for name, described in data.items()}
    return replace(
        run,
        name=f"run {number}",
        config=config,
        config_text=yaml.safe_dump(config, sort_keys=False),
        provenance=provenance,
        before=_evaluation(run.before),
        after=_evaluation(run.after),
        retain=_evaluation(run.retain),
        notes=["For outsiders: questions, answers, paths and names are withheld."],
    )


def _evaluation(evaluation: Evaluation | None) -> Evaluation | None:
    """Figures by row, the rows told apart by number alone."""
    if evaluation is None:
        return None
    return replace(
        evaluation,
        per_example={
            split: [_figures(row) | {"question": f"row {n}", "answer": ""} for n, row in enumerate(rows, 1)]
            for split, rows in evaluation.per_example.items()
        },
        settings=_settings(evaluation.settings),
        reasons=dict.fromkeys(evaluation.reasons, "reason withheld"),
        notes={},
    )


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if _is_figure(value)}


def _is_figure(value: Any) -> bool:
    return all(map(_is_figure, value)) if isinstance(value, list) else isinstance(value, int | float | None)


def _settings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _settings(part) for key, part in value.items() if isinstance(key, str) and key.isidentifier()}
    if isinstance(value, list):
        return [_settings(part) for part in value]
    return value if _is_figure(value) or value in WORDS else WITHHELD


def _files(described: Any) -> list[dict[str, Any]]:
    """Sizes and hashes: who has the data can tell that it was this."""
    return [{key: file[key] for key in ("bytes", "sha256") if key in file} for file in described]
