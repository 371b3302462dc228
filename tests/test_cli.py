"""The command as a user meets it: exit status, one line, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from altpo_ds.config.load import dump_config, load_config


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: runs/a\nmodel: {path: m}\n")
    return path


def altpo_ds(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, "-m", "altpo_ds", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=60,
    )


def test_config_prints_a_run_that_loads_again(run_file: Path, tmp_path: Path) -> None:
    done = altpo_ds("config", run_file, "--objective.beta", "0.05", "--world-size=7", "--seed=3", "--cpu")
    assert done.returncode == 0, done.stderr
    printed = tmp_path / "printed.yaml"
    printed.write_text(done.stdout)
    assert load_config(printed) == load_config(run_file, ["--objective.beta=0.05", "--seed=3"])
    assert dump_config(load_config(printed)) in done.stdout
    assert "# batch: micro 1 x accumulation 1 x ranks 7 = global 7\n" in done.stdout
    comments = done.stdout.partition("# deepspeed:\n")[2].replace("#", "")
    assert json.loads(comments)["train_batch_size"] == 7


def test_the_world_size_comes_from_the_launcher(run_file: Path) -> None:
    done = altpo_ds("config", run_file, "--cpu", WORLD_SIZE="7")
    assert "ranks 7 = global 7" in done.stdout
    assert yaml.safe_load(done.stdout)["run_dir"] == "runs/a"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing command"),
        (["confg"], "No such command 'confg'. Did you mean 'config'?"),
        (["--verbose"], "No such option: --verbose"),
        (["config"], "Missing argument 'RUN.yaml'"),
        (["config", "no.yaml"], "no.yaml: cannot be read: No such file or directory"),
        (["config", "RUN", "--objective.betta=1"], "did you mean objective.beta?"),
        (["config", "RUN", "--objective.beta", "-1"], "must be greater than 0"),
        (["config", "RUN", "--world-size=2"], "set global_batch_size to 6 or 8"),
        (["config", "RUN", "--world-size=x"], "Invalid value for '--world-size'"),
        (["config", "RUN", "--engine.deepspeed=zero4"], "'zero4': not in ds_configs/"),
        (["config", "RUN", "extra"], "argument 'extra': not expected"),
        (["config", "--seed", "1", "RUN"], "option --seed: comes before RUN.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run_file: Path, arguments: list[str], expected: str) -> None:
    done = altpo_ds(*(str(run_file) if word == "RUN" else word for word in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("altpo-ds: error: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_only_rank_0_prints_the_line() -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        done = altpo_ds("confg", RANK=rank)
        assert (done.returncode, done.stderr.count("\n")) == (2, lines)


def test_help_lists_the_commands() -> None:
    done = altpo_ds("--help")
    assert done.returncode == 0
    assert "config" in done.stdout


def test_an_interrupt_is_status_130(run_file: Path) -> None:
    interrupted = (
        "import sys, altpo_ds.cli as cli, altpo_ds.config.load as load\n"
        "def interrupt(*_): raise KeyboardInterrupt\n"
        "load.load_config = interrupt\n"
        f"sys.argv = ['altpo-ds', 'config', {str(run_file)!r}]\n"
        "sys.exit(cli.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_config_starts_without_torch_and_deepspeed(run_file: Path) -> None:
    light = (
        "import sys, altpo_ds, altpo_ds.cli as cli\n"
        "altpo_ds.RunConfig, altpo_ds.load_config\n"
        f"sys.argv = ['altpo-ds', 'config', {str(run_file)!r}, '--cpu']\n"
        "assert cli.main() == 0\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'datasets', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
