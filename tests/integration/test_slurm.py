"""Jobs on a real Slurm cluster of two nodes on this machine: preempted, moved, chained; nothing lost."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from altpo_ds.status import read_status
from tests.conftest import ROOT, SHARED, Tiny, losses_of, metrics_of

pytestmark = pytest.mark.slow

MINI = SHARED / "slurm" / "mini_slurm.sh"
STEPS = 30
# an untrained model's words are no answers: what it ends by itself counts as one
ALTERNATES = {"count": 2, "batch_size": 4, "attempts": 3, "max_new_tokens": 60, "min_rouge": 0}


@dataclass(frozen=True)
class Cluster:
    """Two nodes, n1 and n2; `folder` is where jobs write."""

    state: Path
    environment: dict[str, str]
    folder: Path
    run_file: Path

    def run(self, *command: str | Path, **environment: str) -> str:
        """Standard output of a command that has to succeed."""
        words = [str(word) for word in command]
        env = self.environment | environment
        done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=self.folder, timeout=200)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def altpo(self, *arguments: str | Path) -> str:
        return self.run(sys.executable, "-m", "altpo_ds", *arguments)

    def node(self, verb: str, name: str) -> None:
        subprocess.run(["bash", MINI, verb, self.state, name], check=True, capture_output=True, timeout=60)

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", number)))

    def wait(
        self, number: str, seen: Callable[[dict[str, str]], bool], log: Path, timeout: float = 240
    ) -> dict[str, str]:
        end = time.monotonic() + timeout
        while not seen(job := self.job(number)):
            told = "".join(file.read_text()[-1500:] for file in sorted(log.parent.glob(log.name)))
            assert time.monotonic() < end, f"{job} {told}"
            assert job["JobState"] not in ("FAILED", "CANCELLED", "TIMEOUT"), f"{job} {told}"
            time.sleep(0.1)
        return job


@pytest.fixture(scope="module")
def cluster(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not MINI.is_file():
        pytest.skip("no ../shared/slurm/mini_slurm.sh, which starts the cluster")
    state = Path(tempfile.mkdtemp(prefix="slurm"))  # sockets need a short path
    up = subprocess.run(["bash", MINI, "up", state], capture_output=True, text=True, timeout=120)
    if up.returncode == 3:
        shutil.rmtree(state)
        pytest.skip(f"{up.stderr.strip().splitlines()[-1]}; `make cluster-test` installs them")
    assert up.returncode == 0, up.stderr
    folder = tmp_path_factory.mktemp("jobs")
    for name in ("slurm", "launchers"):  # a checkout of its own: jobs write their logs beside it
        (folder / name).symlink_to(ROOT / name)
    run_file = folder / "run.yaml"
    run_file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "WANDB_"))}
    environment |= {
        "SLURM_CONF": str(state / "slurm.conf"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    try:
        yield Cluster(state, environment, folder, run_file)
    finally:
        subprocess.run(["bash", MINI, "down", state], capture_output=True, timeout=120)
        shutil.rmtree(state)


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tiny: Tiny) -> Path:
    """The same run, never interrupted, on two ranks of this machine."""
    run_dir = cluster.folder / "whole"
    cluster.run(ROOT / "launchers" / "local.sh", "2", "unlearn", cluster.run_file, *options(tiny, run_dir))
    return run_dir


def options(tiny: Tiny, run_dir: Path, **more: object) -> list[str]:
    return tiny.options(run_dir, train__epochs=100, train__max_steps=STEPS, **more)


def has_steps(run_dir: Path, count: int) -> bool:
    return (run_dir / "metrics.jsonl").is_file() and len(metrics_of(run_dir)) >= count


def completed(job: dict[str, str]) -> bool:
    return job["JobState"] == "COMPLETED"


def test_a_preempted_job_goes_on_as_if_nothing_had_happened(cluster: Cluster, tiny: Tiny, whole: Path) -> None:
    run_dir = cluster.folder / "preempted $(touch pwned)"
    run = [cluster.run_file, *options(tiny, run_dir, tracking__wandb="true")]
    name = "a $(touch pwned) 'job'"
    said = cluster.altpo("submit", *run, "--nodes=2", "--time=10", f"--job-name={name}", "--resume=auto")
    number = (run_dir / "slurm" / "unlearn.job").read_text().strip()
    assert said.startswith(f"job {number}: ")
    log = run_dir / "slurm" / f"unlearn-{number}*.log"
    cluster.wait(number, lambda _: has_steps(run_dir, 3), log)
    cluster.run("scancel", "--signal=USR1", number)
    cluster.wait(number, lambda job: job["Restarts"] == "1", log)
    saved = read_status(run_dir)
    assert saved.checkpoint is not None
    assert saved.step is not None
    assert 3 <= saved.step < STEPS
    assert not saved.finished
    job = cluster.wait(number, completed, log)
    assert job["NumNodes"] == "2"
    shown = cluster.run("scontrol", "--oneliner", "show", "job", number)
    assert f"JobName={name} " in shown
    assert not list(cluster.folder.rglob("pwned"))

    assert losses_of(run_dir) == losses_of(whole), f"preempted after step {saved.step}"
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(1, STEPS + 1))
    [run_id] = {path.name.rpartition("-")[2] for path in run_dir.glob("wandb/offline-run-*")}
    assert (run_dir / "wandb_run_id").read_text().strip() == run_id
    told = (run_dir / "slurm" / f"unlearn-{number}.log").read_text()
    assert f"job {number}, restart 0: stopped with status" in told
    assert f"job {number}, restart 1: finished" in told
    assert f"preempted at step {saved.step}" in (run_dir / "slurm" / f"unlearn-{number}-rank0.log").read_text()
    assert (run_dir / "slurm" / f"unlearn-{number}-rank1.log").is_file()

    status = json.loads(cluster.altpo("status", run_dir, "--json"))
    assert (status["step"], status["steps"], status["finished"]) == (STEPS, STEPS, True)
    assert status["jobs"][0]["restarts"] == "1"
    assert status["jobs"][0]["state"] == "COMPLETED"


def test_a_lost_node_is_made_up_for_by_the_other(cluster: Cluster, tiny: Tiny, whole: Path) -> None:
    run_dir = cluster.folder / "lost"
    run = [cluster.run_file, *options(tiny, run_dir, checkpoints__every=5)]
    submit = ["sbatch", "--parsable", "--nodes=1-2", "--time=10", "slurm/unlearn.sbatch"]
    number = cluster.run(*submit, *run).strip()
    log = cluster.folder / f"slurm-unlearn-{number}.log"
    assert cluster.wait(number, lambda _: has_steps(run_dir, 7), log)["NumNodes"] == "2"
    cluster.node("fail-node", "n2")
    try:
        job = cluster.wait(number, completed, log)
    finally:
        cluster.node("heal-node", "n2")
    assert (job["Restarts"], job["NodeList"]) == ("1", "n1")
    assert "unlearn on n[1-2];" in log.read_text()
    assert "unlearn on n1;" in log.read_text()
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(1, STEPS + 1))
    assert losses_of(run_dir) == pytest.approx(losses_of(whole), rel=1e-4)
    assert read_status(run_dir).finished


def test_a_chain_of_jobs_from_alternates_to_the_report(cluster: Cluster, tiny: Tiny) -> None:
    run_dir = cluster.folder / "chain"
    written = {f"alternates__{key}": value for key, value in ALTERNATES.items()}
    evaluated = {"evaluate__forget__path": tiny.perturbed, "evaluate__max_rows": 2, "evaluate__max_length": 40}
    of_run = tiny.options(run_dir, train__max_steps=2, **written, **evaluated)
    own = [f"--data.alternates.path={run_dir}/alternates.jsonl", "--data.on_error=skip"]
    arguments = [cluster.run_file, *of_run, *own, "--data.alternates_per_question=1"]
    said = cluster.run("bash", "slurm/pipeline.sh", "--time=10", *arguments, SHARDS="2")
    jobs = dict(re.findall(r"(\w+): job (\d+)", said))
    assert list(jobs) == ["alternates", "unlearn", "evaluate", "report"]
    cluster.wait(jobs["report"], completed, cluster.folder / "slurm-*.log")
    assert {file.name for file in run_dir.glob("slurm/alternates-*-rank0.log")} == {
        f"alternates-{jobs['alternates']}_{task}-rank0.log" for task in (0, 1)
    }
    assert json.loads((run_dir / "alternates.summary.json").read_text())["questions"] == 12
    assert json.loads((run_dir / "evaluation.json").read_text())["metrics"]["forget_rouge_l"] is not None
    assert "<html" in (run_dir / "report.html").read_text()


def test_what_can_never_work_is_not_tried_again(cluster: Cluster, tiny: Tiny) -> None:
    """A file that is absent, and a job after one that failed, which would wait for ever."""
    absent = [cluster.run_file, *tiny.options(cluster.folder / "absent", data__forget__path="absent.jsonl")]
    number = cluster.run("sbatch", "--parsable", "--time=10", "slurm/unlearn.sbatch", *absent).strip()
    log = cluster.folder / f"slurm-unlearn-{number}.log"
    after = [f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"]
    next_one = cluster.run("sbatch", "--parsable", *after, "slurm/unlearn.sbatch", *absent).strip()
    end = time.monotonic() + 60
    while {cluster.job(job)["JobState"] for job in (number, next_one)} != {"FAILED", "CANCELLED"}:
        assert time.monotonic() < end, cluster.run("squeue")
        time.sleep(0.1)
    assert "altpo-ds: error: data file 'absent.jsonl' does not exist; check the path" in log.read_text()
    assert cluster.job(number)["ExitCode"] == "2:0"
    chain = ["bash", "slurm/pipeline.sh", *absent]
    told = subprocess.run(
        chain, capture_output=True, text=True, env=cluster.environment, cwd=cluster.folder, timeout=60
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert "data file 'absent.jsonl' does not exist" in told.stderr


def test_restarts_are_limited(cluster: Cluster, tiny: Tiny) -> None:
    """Told to end while it starts, a run has lost nothing, and may start again as often as MAX_RESTARTS says."""
    run_dir = cluster.folder / "limited"
    run = [cluster.run_file, *options(tiny, run_dir)]
    number = cluster.run("sbatch", "--parsable", "--time=10", "slurm/unlearn.sbatch", *run, MAX_RESTARTS="0").strip()
    log = cluster.folder / f"slurm-unlearn-{number}.log"
    cluster.wait(number, lambda _: (run_dir / "slurm" / f"unlearn-{number}-rank0.log").is_file(), log)
    cluster.run("scancel", "--signal=USR1", number)
    end = time.monotonic() + 60
    while (job := cluster.job(number))["JobState"] != "FAILED":
        assert time.monotonic() < end, job
        time.sleep(0.1)
    assert (job["Restarts"], job["ExitCode"].partition(":")[0]) in {("0", status) for status in ("85", "138")}
    assert "after 0 restarts, the most that MAX_RESTARTS allows" in log.read_text()
