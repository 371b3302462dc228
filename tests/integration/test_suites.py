"""Every suite on a tiny model, on one rank and on two; against itself nothing may differ."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from altpo_ds.config.errors import UserError
from altpo_ds.config.load import load_config
from altpo_ds.engine.distributed import World
from tests.conftest import Command, Tiny, write_jsonl

SUITES = "[tofu,quality,privacy,distribution,muse,harness,relearning,quantization]"
TASK = """
task: towns
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def options(tiny: Tiny, folder: Path, suite: str = SUITES) -> list[str]:
    """An evaluation of all suites; the holdout rows are the forget rows, which no attack can tell apart."""
    rows = [json.loads(line) for line in tiny.perturbed.read_text().splitlines()]
    asked = [row | {"paraphrased_question": f"In which town? {row['question']}"} for row in rows]
    forget = write_jsonl(folder / "forget.jsonl", asked[:12])
    documents = write_jsonl(folder / "documents.jsonl", ({"text": row["answer"]} for row in rows))
    choices = [{"question": row["question"], "choices": ["Norwick", "Sundby"], "label": 0} for row in rows[:4]]
    (folder / "towns.yaml").write_text(TASK.replace("FILE", str(write_jsonl(folder / "towns.jsonl", choices))))
    named: dict[str, object] = {
        "run_dir": folder / "run",
        "model.path": tiny.model,
        "tracking.wandb": "false",
        "evaluate.suite": suite,
        "evaluate.forget.path": forget,
        **{f"evaluate.{split}.path": tiny.perturbed for split in ("retain", "real_authors", "world_facts")},
        "evaluate.holdout.path": forget,
        "evaluate.max_rows": 10,
        "evaluate.max_length": 40,
        "evaluate.samples": 3,
        "evaluate.retain_model": tiny.model,
        "evaluate.muse.forget_verbatim.path": tiny.forget,
        "evaluate.muse.forget_knowledge.path": tiny.forget,
        "evaluate.muse.forget_documents": f"{{path: {documents}, text: text}}",
        "evaluate.muse.holdout_documents": f"{{path: {documents}, text: text}}",
        "evaluate.muse.verbatim_tokens": 8,
        "evaluate.muse.knowledge_tokens": 8,
        "evaluate.harness.tasks": "[towns]",
        "evaluate.harness.include_path": folder,
        "evaluate.relearning": "{rows: 4, steps: 4, every: 2, lr: 0.003}",
        "evaluate.quantization_bits": "[4]",
    }
    return [f"--{key}={value}" for key, value in named.items()]


@pytest.fixture(scope="module")
def evaluations(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The model alone on one rank, and against itself on two."""
    folder = tmp_path_factory.mktemp("suites")
    common, command = options(tiny, folder), Command(folder)
    against = [*common, f"--evaluate.retain_reference={folder / 'alone.json'}"]
    for name, ranks, given in (("alone", 1, common), ("itself", 2, against)):
        done = command("evaluate", [*given, "--out", str(folder / f"{name}.json")], ranks)
        assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("alone", "itself")}


@pytest.mark.slow
def test_a_model_cannot_be_told_from_itself(evaluations: dict[str, dict[str, Any]]) -> None:
    metrics = evaluations["itself"]["metrics"]
    same = {
        "forget_quality": 1,
        "cleanness_indistinguishability": 1,
        "privleak": 0,
        "muse_privleak": 0,
        "mia_loss_rel_diff": 0,
        "fade": 0,
        "fade_to_retain": 0,
        "relearning_rouge_l_excess": 0,
        "mia_reference_auc": 0.5,
        "muse_mia_min_k_auc": 0.5,
    }
    assert {name: metrics[name] for name in same} == pytest.approx(same, abs=1e-6)
    assert metrics["int4_forget_probability"] != metrics["forget_probability"]
    assert metrics["relearning_probability_gain"] > 0  # the rows look alike: a few teach the others
    assert 0 <= metrics["harness_towns_acc"] <= 1
    nothing = {name for name, value in metrics.items() if value is None}
    assert nothing <= evaluations["itself"]["reasons"].keys()


@pytest.mark.slow
def test_attacks_see_nothing_in_rows_that_are_the_same(evaluations: dict[str, dict[str, Any]]) -> None:
    metrics = evaluations["itself"]["metrics"]
    # Rounding may put either of two equal rows first; the mean of many such draws is a half.
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus", "gradient_norm"):
        assert metrics[f"mia_{attack}_auc"] == pytest.approx(0.5, abs=0.06), attack


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_ranks(evaluations: dict[str, dict[str, Any]]) -> None:
    one, two = evaluations["alone"], evaluations["itself"]
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        if value is not None and not name.startswith("mia_"):  # whose ties rounding breaks
            assert two["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for row, other in zip(one["per_example"]["forget"], two["per_example"]["forget"], strict=True):
        assert row["samples"] == other["samples"]


@pytest.mark.slow
def test_what_needs_a_reference_is_null_for_a_reason(evaluations: dict[str, dict[str, Any]]) -> None:
    alone = evaluations["alone"]
    names = ("forget_quality", "cleanness_indistinguishability", "privleak", "mia_reference_auc", "muse_privleak")
    for name in (*names, "relearning_probability_excess", "int4_forget_quality"):
        assert alone["metrics"][name] is None
        assert "evaluate.retain_reference" in alone["reasons"][name]
    assert "embedded" in alone["notes"]["text_cleanness"]
    assert alone["settings"]["classifier"]["name"] == "embedded"
    assert "few rows: with n = 10" in evaluations["itself"]["notes"]["forget_quality"]
    for name in ("forget_probability", "text_cleanness", "forget_leak_rate", "mia_min_k_auc", "fade", "model_utility"):
        low, high = alone["intervals"][name]
        assert low <= alone["metrics"][name] <= high


def evaluated(tiny: Tiny, folder: Path, suite: str, **more: object) -> dict[str, Any]:
    """An evaluation in this process."""
    from altpo_ds.evaluate.run import evaluate

    run = folder / "run.yaml"
    run.write_text("run_dir: unused\nmodel: {path: unused}\n")
    extra = [f"--{key.replace('__', '.')}={value}" for key, value in more.items()]
    return evaluate(load_config(run, [*options(tiny, folder, suite), *extra]), out=str(folder / "out.json"))


@pytest.mark.slow
def test_bad_input_ends_in_words(tiny: Tiny, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTPO_CACHE", str(tmp_path / "cache"))
    first = evaluated(tiny, tmp_path, "[tofu,privacy]")
    assert first["metrics"]["forget_rows"] == 10
    other = tmp_path / "other.json"
    rows = first["per_example"]["forget"]
    first["per_example"]["forget"] = [row | {"question": "Another?"} for row in rows]
    other.write_text(json.dumps(first))
    with pytest.raises(UserError, match="evaluate the retain model on the same rows"):
        evaluated(tiny, tmp_path, "[tofu]", evaluate__retain_reference=other)
    with pytest.raises(UserError, match="its 10 forget rows are not the 10 of this evaluation"):
        evaluated(tiny, tmp_path, "[privacy]", evaluate__retain_reference=other)
    with pytest.raises(UserError, match=r"evaluate.harness.tasks = nothing: no such task"):
        evaluated(tiny, tmp_path, "[harness]", evaluate__harness__tasks="[nothing]")
    with pytest.raises(UserError, match=r"'perturbed_answer'.*is missing"):
        evaluated(tiny, tmp_path, "[tofu]", evaluate__forget__path=tiny.forget)
    # The same rows are enough where nothing asks for perturbations.
    bare = evaluated(tiny, tmp_path, "[privacy]", evaluate__forget__path=tiny.forget)
    assert bare["metrics"]["forget_extraction_strength"] is not None

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], math.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not a finite number"):
        evaluated(tiny, tmp_path, "[tofu]", model__path=broken)
