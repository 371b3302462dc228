"""The start scripts: ranks, cores and threads as asked, and arguments that arrive as they were given."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from altpo_ds.engine.distributed import free_port
from tests.conftest import ROOT

LAUNCHERS = ROOT / "launchers"
RUN_DIR = """a $(touch pwned) `b` "c" 'd' * \\ %s"""
PROBE = """#!/usr/bin/env bash
# The interpreter; before a rank it says where that is
case "$*" in "-m altpo_ds"*) echo "rank $RANK of $WORLD_SIZE, $OMP_NUM_THREADS threads, $(taskset -cp $$)" ;; esac
exec {python} "$@"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "run.yaml").write_text("run_dir: unused\nmodel: {path: m}\ntrain: {global_batch_size: 4}\n")
    (tmp_path / "one").write_text("# a comment\nlocalhost slots=2\n")
    (tmp_path / "two").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    probe = tmp_path / "python"
    probe.write_text(PROBE.format(python=sys.executable))
    probe.chmod(0o755)
    hidden = ("OMP_NUM_THREADS", "LD_PRELOAD", "RANK", "WORLD_SIZE")
    clean = {key: value for key, value in os.environ.items() if key not in hidden and not key.startswith("SLURM_")}
    own = {"PYTHON": str(probe), "PYTHONPATH": str(ROOT), "MASTER_PORT": free_port(), "DS_ACCELERATOR": "cpu"}
    return clean | own


def start(folder: Path, env: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    command = [str(LAUNCHERS / words[0]), *words[1:], "config", "run.yaml", "--run_dir", RUN_DIR, "--cpu"]
    return subprocess.Popen(
        command, env=env, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starts", "per_node"),
    [
        ([("local.sh", "2")], 2),
        ([("multinode.sh", "two"), ("multinode.sh", "two")], 1),
        ([("deepspeed.sh", "one")], 2),
    ],
    ids=["local", "multinode", "deepspeed"],
)
def test_two_ranks(tmp_path: Path, environment: dict[str, str], starts: list[tuple[str, str]], per_node: int) -> None:
    numbers = range(len(starts))
    nodes = [start(tmp_path, environment | {"NODE_RANK": str(n)}, *starts[n]) for n in numbers]
    said = [node.communicate(timeout=100) for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(nodes), said
    out, err = ("".join(parts) for parts in zip(*said, strict=True))
    ranks = dict(re.findall(r"rank (\d) of 2, (\d+ threads, .*)", out))
    assert set(ranks) == {"0", "1"}
    assert out.count("micro 1 x accumulation 2 x ranks 2 = global 4") == 2
    # DeepSpeed's ranks write unbuffered, a line and its end apart: another rank's line may come between.
    lines = re.findall(r"run_dir: .*", out)
    assert [yaml.safe_load(line) for line in lines] == [{"run_dir": RUN_DIR}] * 2
    assert not (tmp_path / "pwned").exists()

    cores = len(os.sched_getaffinity(0))
    assert {text.partition(" ")[0] for text in ranks.values()} == {str(max(1, cores // per_node))}
    bound = {text.rpartition(": ")[2] for text in ranks.values()}
    if per_node == 2 and cores >= 2:
        assert len(bound) == 2, "both ranks of a node on the same cores"
    libraries = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    assert err.count("tcmalloc is preloaded") == int("libtcmalloc_minimal.so" in libraries)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["local.sh", "2"], "usage: launchers/local.sh RANKS VERB"),
        (["multinode.sh", "bad", "config"], "bad: line 'localhost': write HOST slots=RANKS"),
        (["multinode.sh", "empty", "config"], "empty: names no host"),
        (["multinode.sh", "absent", "config"], "absent: No such file"),
        (["multinode.sh", "other", "config"], "other: does not name this machine"),
        (["srun.sh", "config"], "no Slurm allocation here"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, environment: dict[str, str], words: list[str], message: str) -> None:
    files = {"bad": "localhost\n", "empty": "# nobody\n", "other": "203.0.113.1 slots=2\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [str(LAUNCHERS / words[0]), *words[1:]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*LAUNCHERS.glob("*.sh"), *ROOT.glob("slurm/*.*"), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
