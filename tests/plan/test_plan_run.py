"""The command as a user meets it, in this process: what fits comes first, and a wrong machine is one line."""

import json

import pytest

from altpo_ds import cli
from altpo_ds.config.schema import RunConfig
from altpo_ds.plan.run import Nodes, load_of
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples" / "plan"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["altpo-ds", "plan", str(EXAMPLES / "run.yaml"), *options])
    monkeypatch.chdir(ROOT)
    status = cli.main()
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_what_fits_comes_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine = ("--nodes=4", "--gpus-per-node=8", "--model.path=examples/plan/70b")
    status, out, _ = run(monkeypatch, capsys, *machine, "--json")
    assert status == 0
    choices = json.loads(out)["choices"]
    fits = [choice["fits"] for choice in choices]
    assert fits == sorted(fits, reverse=True)
    times = [choice["seconds"]["step"] for choice in choices if choice["fits"]]
    assert times == sorted(times)
    assert {"zero3", "zero3_offload"} <= {choice["name"] for choice in choices if choice["fits"]}
    assert {"zero0", "zero2"} <= {choice["name"] for choice in choices if not choice["fits"]}
    _, out, _ = run(monkeypatch, capsys, *machine)
    assert out.splitlines()[-1] == f"fastest that fits: {choices[0]['name']} (--engine.deepspeed={choices[0]['name']})"


@pytest.mark.parametrize(("limit", "passes"), [(None, 1), (4304, 1), (4303, 2), (1500, 3)])
def test_a_limit_on_tokens_takes_more_passes(limit: int | None, passes: int) -> None:
    train = {"global_batch_size": 4, "micro_batch_size": 4, "micro_batch_tokens": limit}
    config = RunConfig.model_validate({"run_dir": "r", "model": {"path": "m"}, "train": train})
    load = load_of(config, Nodes(1, 1, 80, 500), prompt=62, response=64)
    # four times a prompt with six responses, and five retain rows
    expected = (4 * (62 + 6 * 64 + 5 * 126), 4 * 11 * 64)
    assert (load.accumulation, load.tokens, load.response_tokens) == (passes, *(size // passes for size in expected))


def test_where_nothing_fits_it_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(monkeypatch, capsys, "--gpu-memory=4", "--train.global_batch_size=8")
    assert status == 0
    assert out.splitlines()[-1].startswith("nothing fits; zero3_")


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(monkeypatch, capsys, "--nodes=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "train.global_batch_size = 256: not a multiple" in err
    status, _, err = run(monkeypatch, capsys, "--nodes=0")
    assert (status, err.count("\n")) == (2, 1)
