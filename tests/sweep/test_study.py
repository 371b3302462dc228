"""The study that workers share: what they get to run, and what becomes of it."""

import os
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from altpo_ds.config.errors import UserError
from altpo_ds.sweep.file import read_sweep
from altpo_ds.sweep.study import Job, Study, trials
from tests.sweep.test_sweep_file import RUN_DIR, write

RESULT = {"eval/forget_quality_log10": -1.0, "eval/model_utility": 0.5}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the sweeps' folder is out/


def study(folder: Path, **keys: Any) -> Study:
    return Study(read_sweep(write(folder, **keys)))


def taken(of: Study) -> Job:
    job = of.next()
    assert job is not None
    return job


def test_workers_share_a_grid(tmp_path: Path) -> None:
    grid = {"objective.beta": {"values": [0.1, 0.5]}, "data.alternates_per_question": {"min": 1, "max": 2}}
    one, other = study(tmp_path, parameters=grid), study(tmp_path, parameters=grid)
    jobs = [taken(worker) for worker in (one, other, one, other)]
    assert [job.name[-4:] for job in jobs] == ["-000", "-001", "-002", "-003"]
    assert {tuple(job.arguments) for job in jobs} == {
        (f"--objective.beta={beta}", f"--data.alternates_per_question={k}") for beta in (0.1, 0.5) for k in (1, 2)
    }
    assert one.next() is None  # none is left, and all four are being run
    for worker, job in zip((one, other, one, other), jobs, strict=True):
        assert worker.finish(job, RESULT, None) is None
    assert [trial.values for trial in one.trials] == [[-1.0, 0.5]] * 4
    assert other.next() is None


def test_a_trial_whose_worker_is_gone_is_taken_up(tmp_path: Path) -> None:
    lost, other = study(tmp_path), study(tmp_path)
    job = taken(lost)
    assert taken(other).name != job.name
    os.close(job.lock)  # as the system does when the last process of the trial ends
    again = taken(other)
    assert (again.name, again.arguments, again.resumed) == (job.name, job.arguments, True)
    assert other.finish(again, RESULT, None) is None
    assert lost.trials[0].state == TrialState.COMPLETE


def test_a_point_of_the_grid_outlives_a_worker_that_died_while_drawing(tmp_path: Path) -> None:
    lost, other = study(tmp_path), study(tmp_path)
    lost.study.ask()  # takes the first point, and dies before it has noted the parameters
    jobs = [taken(other), taken(other)]
    assert [job.arguments for job in jobs] == [["--objective.beta=0.5"], ["--objective.beta=0.1"]]
    assert other.next() is None
    assert other.trials[0].state == TrialState.FAIL


def test_a_trial_without_the_figures_has_failed(tmp_path: Path) -> None:
    of = study(tmp_path)
    failure = of.finish(taken(of), {"train/loss": 1.0}, None)
    assert failure == "it ended without eval/forget_quality_log10, eval/model_utility; its metrics: train/loss"
    assert of.finish(taken(of), RESULT, "broken") == "broken"
    assert [trial.state for trial in of.trials] == [TrialState.FAIL, TrialState.FAIL]
    assert of.trials[1].user_attrs["failure"] == "broken"


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_cap_bounds_all_workers_together(tmp_path: Path, method: str) -> None:
    keys: dict[str, Any] = {"method": method, "run_cap": 3, "parameters": {"train.lr": {"min": 0.1, "max": 0.9}}}
    workers = [study(tmp_path, **keys), study(tmp_path, **keys)]
    drawn = [taken(workers[number % 2]) for number in range(3)]
    assert len({job.arguments[0] for job in drawn}) == 3
    assert workers[0].next() is workers[1].next() is None
    repeated = [taken(study(tmp_path, command=command(folder="again"), **keys)) for _ in range(3)]
    assert [job.arguments for job in repeated] == [job.arguments for job in drawn]


def command(folder: str) -> list[str]:
    return ["altpo-ds", "unlearn", "${program}", RUN_DIR.replace("out", folder), "${args}"]


def test_a_capped_grid_and_the_number_of_trials(tmp_path: Path) -> None:
    of = study(tmp_path, run_cap=1)
    taken(of)
    assert of.next() is None
    assert trials(of.sweep) == 1
    assert trials(read_sweep(write(tmp_path))) == 2
    with pytest.raises(UserError, match="method random has no end: set run_cap, or give --count"):
        trials(read_sweep(write(tmp_path, method="random")))


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(UserError, match=r"sweep\.yaml: parameters changed since the sweep in 'out' was begun"):
        study(tmp_path, parameters={"objective.beta": {"values": [0.1, 0.7]}})
    assert len(study(tmp_path).trials) == 2
