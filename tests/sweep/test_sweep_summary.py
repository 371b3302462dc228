"""The Pareto front and the importances of a sweep."""

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from altpo_ds.sweep.file import Metric
from altpo_ds.sweep.study import METRICS
from altpo_ds.sweep.summary import importances, pareto_front

UP, DOWN = Metric(name="up", goal="maximize"), Metric(name="down", goal="minimize")


def test_pareto_front() -> None:
    values = {
        0: {"up": 1.0, "down": 5.0},
        1: {"up": 2.0, "down": 5.0},  # beats 0
        2: {"up": 1.0, "down": 4.0},  # beats 0
        3: {"up": 0.5, "down": 4.5},
        4: {"up": 2.0, "down": 5.0},  # as good as 1
        5: {"up": 9.0},  # was not evaluated on both
    }
    assert pareto_front(values, [UP, DOWN]) == [1, 2, 4]
    assert pareto_front({}, [UP, DOWN]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_beats_the_rest_and_nobody_beats_the_front(points: list[tuple[int, int]]) -> None:
    values = {number: {"up": float(a), "down": float(b)} for number, (a, b) in enumerate(points)}
    front = set(pareto_front(values, [UP, DOWN]))

    def beaten_by(number: int) -> set[int]:
        a, b = points[number]
        return {other for other, (c, d) in enumerate(points) if c >= a and d <= b and (c, d) != (a, b)}

    assert front
    for number in values:
        assert bool(beaten_by(number) & front) == (number not in front)


def test_the_parameter_that_decides_weighs_most() -> None:
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=1))
    distributions = {name: FloatDistribution(0.0, 1.0) for name in ("decides", "idle")}
    for _ in range(60):
        trial = study.ask(dict(distributions))
        trial.set_user_attr(METRICS, {"up": trial.params["decides"], "down": trial.params["decides"]})
        study.tell(trial, trial.params["decides"])
    for metric in (UP, DOWN):
        weights = importances(study, metric)
        assert weights is not None
        assert weights["decides"] > 0.8
    assert importances(optuna.create_study(), UP) is None
