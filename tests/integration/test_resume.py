"""A stopped run continues as if it had never stopped; what it leaves behind loads as a model anywhere."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine import manifest
from tests.conftest import REFRESHED, Command, Tiny, losses_of, metrics_of

STEPS = 6
# by which steps differ in their number of passes
LIMITED = {"train__micro_batch_tokens": 57, "data__max_tokens": 57}


@pytest.mark.slow
@pytest.mark.parametrize("more", [LIMITED, REFRESHED], ids=["limited", "refreshed"])
def test_resumed_run_equals_uninterrupted_one_bit_for_bit(
    command: Command, tiny: Tiny, tmp_path: Path, more: dict[str, object]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = {"train__max_steps": STEPS, "checkpoints__every": 1, "checkpoints__keep": STEPS, **more}
    result = command("unlearn", tiny.options(whole, **options), 2)
    assert result.returncode == 0, result.stderr[-3000:]
    # As after a kill -9: later checkpoints are not there, one is half written, metrics ran ahead.
    step = random.Random().randint(1, STEPS - 1)
    shutil.copytree(whole, stopped)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(stopped / "checkpoints" / f"step-{later}")
    (stopped / "checkpoints" / f".step-{step + 1}.partial").mkdir()
    (stopped / "checkpoints" / f"step-{step + 2}").mkdir()
    result = command("unlearn", tiny.options(stopped, **options), 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "resharding" not in result.stderr
    assert losses_of(stopped) == losses_of(whole), f"stopped after step {step}"
    assert [line["step"] for line in metrics_of(stopped)] == list(range(1, STEPS + 1))
    first, second = (tmp_path / f"{name}_model" for name in ("whole", "stopped"))
    for run_dir, out in ((whole, first), (stopped, second)):
        exported = command._run(["-m", "altpo_ds", "export", str(run_dir), "--to", str(out)], 1, {})
        assert exported.returncode == 0, exported.stderr[-3000:]
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    if more is LIMITED:
        assert len({line["perf/passes"] for line in metrics_of(whole)}) > 1
        _check_export(first, tiny, losses_of(whole))


def _check_export(folder: Path, tiny: Tiny, losses: list[float]) -> None:
    """The exported model loads with its weights tied, differs from the original and learned what it should."""
    before = AutoModelForCausalLM.from_pretrained(tiny.model)
    after, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)  # pyright: ignore[reportGeneralTypeIssues]
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert after.lm_head.weight is after.model.embed_tokens.weight
    assert not torch.equal(after.lm_head.weight, before.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in tiny.alternates.read_text().splitlines()]
    chat = ChatTokenizer(tokenizer)

    def score(model: torch.nn.Module, question: str, text: str) -> float:
        prompt, response = chat.prompt(question), chat.response(question, text)
        ids = torch.tensor([[*prompt, *response]])
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0, len(prompt) - 1 : -1], -1)
        return float(log_probs.gather(-1, torch.tensor(response)[:, None]).sum())

    gains = [
        score(after, r["question"], r["alternates"][0]) - score(before, r["question"], r["alternates"][0]) for r in rows
    ]
    assert min(gains) > 0
    assert losses[-1] < losses[0]


def test_resume_refuses_what_would_mix_runs(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    step = run_dir / "checkpoints" / "step-3"
    step.mkdir(parents=True)
    (step / manifest.NAME).write_text('{"files": {}}')
    (run_dir / "config.yaml").write_text("run_dir: x\nmodel: {path: elsewhere}\n")
    changed = command("unlearn", tiny.options(run_dir))
    assert changed.returncode == 2
    assert "was begun with" in changed.stderr
    assert "Traceback" not in changed.stderr
