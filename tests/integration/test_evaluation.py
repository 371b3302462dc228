"""Evaluation on two ranks: in the middle of training, of several models, and from the cache."""

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from altpo_ds.evaluate.report import write_report
from altpo_ds.evaluate.runs import read_runs
from tests.conftest import Command, Tiny, losses_of, metrics_of

STEPS = 3


@dataclass(frozen=True)
class Story:
    """Two trainings that differ in their evaluations alone, and evaluations of both and of the model before."""

    plain: Path
    watched: Path
    evaluations: Path
    result: subprocess.CompletedProcess[str]

    def evaluation(self, file: Path) -> dict[str, Any]:
        return json.loads(file.read_text())


@pytest.fixture(scope="module")
def story(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("evaluation")
    model = folder / "dropout"  # its training draws random numbers
    model.mkdir()
    for file in tiny.model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.2}))

    reference = folder / "reference.json"
    common: dict[str, Any] = {
        "model__path": model,
        "train__max_steps": STEPS,
        "evaluate__forget__path": tiny.perturbed,
        "evaluate__retain__path": tiny.perturbed,
        "evaluate__max_rows": 3,
        "evaluate__max_length": 40,
        "evaluate__samples": 2,
    }
    watching = common | {"evaluate__retain_reference": reference, "evaluate__suite": "[tofu,quality,privacy]"}
    plain = tiny.options(folder / "plain", **common)
    watched = tiny.options(folder / "watched", **watching, train__evaluate_every=1)
    several = [*tiny.options(folder / "several", **common), "--model", str(folder / "plain")]
    several += ["--model", str(folder / "watched"), "--model", str(model)]
    calls = [
        ("evaluate", [*tiny.options(folder / "before", **watching | {"evaluate__retain_reference": "null"}),
                      "--model", str(model), "--out", str(reference)]),
        ("unlearn", plain),
        ("unlearn", watched),
        ("evaluate", several),
        ("evaluate", several),
    ]  # fmt: skip
    result = Command(folder).many(calls, ranks=2)
    assert result.returncode == 0, result.stderr[:3000]
    return Story(folder / "plain", folder / "watched", folder / "several" / "evaluations", result)


def test_training_does_not_notice_that_it_is_evaluated(story: Story) -> None:
    assert len(losses_of(story.plain)) == STEPS
    assert losses_of(story.plain) == losses_of(story.watched)


def test_every_suite_on_the_way(story: Story, tmp_path: Path) -> None:
    lines = [line for line in metrics_of(story.watched) if "eval/forget_quality" in line]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    # at step 0 the model is the reference itself
    assert lines[0]["eval/forget_quality"] == 1
    assert lines[0]["eval/forget_probability"] != lines[-1]["eval/forget_probability"]
    for name in ("forget_quality_log10", "text_cleanness", "forget_leak_rate", "forget_extraction_strength"):
        assert all(isinstance(line[f"eval/{name}"], float) for line in lines), name
    write_report(tmp_path / "report.html", read_runs([story.watched]))
    assert "Forget quality on the way" in (tmp_path / "report.html").read_text()


def test_several_models_each_with_its_file(story: Story) -> None:
    files = [story.plain / "evaluation.json", *story.evaluations.glob("*.json")]
    assert [file.name for file in files] == ["evaluation.json", "dropout.json"]
    watched = story.evaluation(story.watched / "evaluation.json")
    assert watched["settings"]["model"].endswith("exported/step-3")
    trained, before = (story.evaluation(file) for file in files)
    assert trained["metrics"] == watched["metrics"]  # the two trainings ended alike
    assert trained["metrics"] != before["metrics"]
    assert len(before["per_example"]["forget"]) == 3
    assert all(row["perturbed_nll"] for row in before["per_example"]["forget"])
    headers = [line for line in story.result.stdout.splitlines() if "metric" in line]
    assert sum(all(name in line for name in ("plain", "watched", "dropout")) for line in headers) == 2


def test_a_second_time_nothing_is_computed(story: Story) -> None:
    said = [line for line in story.result.stderr.splitlines() if "no forward pass" in line]
    # plain and watched have the same weights: the cache knows the second one in the first call already
    assert [line.split(":")[0].rpartition("/")[2] for line in said] == ["step-3", "step-3", "step-3", "dropout"]


def test_training_has_dropout(story: Story) -> None:
    # without it the policy is the reference at the first step, and every pair costs 2 / beta * log 2
    assert metrics_of(story.plain)[0]["train/loss_forget"] != pytest.approx(2 / 0.1 * math.log(2), rel=1e-4)
