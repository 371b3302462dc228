"""Batch scripts: what a run asks for, every value quoted, and a word on what cannot be submitted."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.errors import UserError
from altpo_ds.config.load import load_config
from altpo_ds.config.schema import RunConfig
from altpo_ds.submit import Job, batch_script, submit
from tests.conftest import ROOT, Tiny


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    return file


@pytest.fixture
def config(tiny: Tiny, run_file: Path, tmp_path: Path) -> RunConfig:
    return load_config(run_file, tiny.options(tmp_path / "run"))


def headers(script: str) -> dict[str, str]:
    """Options by name, read as sbatch reads them: like a shell that expands nothing."""
    lines = [line.removeprefix("#SBATCH ") for line in script.split("\n") if line.startswith("#SBATCH ")]
    words = [shlex.split(line) for line in lines]
    assert all(len(word) == 1 for word in words)
    return {name: value for [word] in words for name, _, value in [word.partition("=")]}


def test_the_script_asks_for_what_the_run_needs(config: RunConfig, tmp_path: Path) -> None:
    job = Job(nodes="2-4", gpus_per_node=8, time="1-12:00:00", options=["--partition=gpu", "--exclusive"])
    script = batch_script(config, "unlearn", job, ["run.yaml", "--resume=never"])
    assert headers(script) == {
        "--job-name": "unlearn run",
        "--nodes": "2-4",
        "--mincpus": "8",
        "--gpus-per-node": "8",
        "--time": "1-12:00:00",
        "--output": f"{tmp_path}/run/slurm/unlearn-%j.log",
        "--requeue": "",
        "--open-mode": "append",
        "--signal": "USR1@120",
        "--partition": "gpu",
        "--exclusive": "",
    }
    assert "\nexport RANKS_PER_NODE=8\n" in script
    assert script.endswith(f"source {ROOT}/slurm/job.sh\njob unlearn run.yaml --resume=never\n")
    cpu = headers(batch_script(config, "unlearn", Job(ranks_per_node=2), ["run.yaml"]))
    assert cpu["--mincpus"] == "2"
    assert "--gpus-per-node" not in cpu


def test_alternates_in_shards_are_an_array(tiny: Tiny, run_file: Path, tmp_path: Path) -> None:
    config = load_config(run_file, tiny.options(tmp_path / "100%", alternates__shards=4))
    script = batch_script(config, "alternates", Job(), ["run.yaml"])
    assert headers(script)["--array"] == "0-3"
    assert headers(script)["--output"] == f"{tmp_path}/100%%/slurm/alternates-%A_%a.log"
    assert script.endswith('job alternates run.yaml --alternates.shard="$SLURM_ARRAY_TASK_ID"\n')


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1))
def test_any_text_stays_text(text: str) -> None:
    run = RunConfig.model_validate({"run_dir": "r", "model": {"path": "m"}})
    script = batch_script(run, "unlearn", Job(name=text), ["run.yaml", f"--resume={text}"])
    assert headers(script)["--job-name"] == text
    assert shlex.split(script.rstrip("\n").split("\n")[-1])[3] == f"--resume={text}"


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Job(name="a\n#SBATCH --uid=0"), r"holds a line break"),
        (Job(nodes="four"), r"--nodes four: write a number"),
        (Job(nodes="0"), r"--nodes 0"),
        (Job(time="soon"), r"--time soon: write hours:minutes:seconds"),
        (Job(options=["qos=high"]), r"'qos=high': not one of sbatch"),
        (Job(options=["--wrap x; rm"]), r"not one of sbatch"),
    ],
)
def test_wrong_values_are_refused(config: RunConfig, job: Job, message: str) -> None:
    with pytest.raises(UserError, match=message):
        submit(config, "unlearn", job, [], dry_run=True)
    assert not (Path(config.run_dir) / "slurm" / "unlearn.sbatch").exists()


def test_the_command_line(tiny: Tiny, run_file: Path, tmp_path: Path) -> None:
    """A dry run writes the script and the resolved run; what is absent, and no Slurm, is one line."""
    words = [sys.executable, "-m", "altpo_ds", "submit", str(run_file), "--nodes", "2"]
    empty = tmp_path / "bin"
    empty.mkdir()

    def altpo(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*words, *tiny.options(tmp_path / "run", seed=5), *more]
        env = os.environ | {"PATH": str(empty)}
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)

    done = altpo("--dry-run", "--account=a b", "--resume", "never")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "slurm"
    script = (folder / "unlearn.sbatch").read_text()
    assert script.rstrip() in done.stdout
    assert headers(script)["--account"] == "a b"
    assert f"\njob unlearn {folder}/unlearn.yaml --resume=never\n" in script
    assert load_config(folder / "unlearn.yaml").seed == 5
    models = ["--verb=evaluate", "--model=a b", "--model=c", "--suite=tofu", f"--evaluate.forget.path={tiny.perturbed}"]
    done = altpo("--dry-run", *models)
    assert f"\njob evaluate {folder}/evaluate.yaml '--model=a b' --model=c --suite=tofu\n" in done.stdout, done.stderr
    for more, message in {
        "--model.path=/nowhere": "'/nowhere' is no model directory",
        "--data.retain.path=no.jsonl": "data file 'no.jsonl' does not exist",
        "--engine.deepspeed=./no.json": "DeepSpeed file './no.json' does not exist",
        "--verb=report": "verb report: not a job; one of unlearn",
        "--time=5": "sbatch: not found",
    }.items():
        done = altpo(more)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
