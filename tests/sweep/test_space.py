"""W&B's parameters: their values, Optuna's distributions, and grids."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import create_study

from altpo_ds.config.errors import UserError
from altpo_ds.sweep.space import Parameter, distribution, grid, rounded


@pytest.mark.parametrize(
    ("keys", "kind", "points"),
    [
        ({"value": 3}, "constant", [3]),
        ({"value": None}, "constant", [None]),
        ({"values": ["a", 1, True]}, "categorical", ["a", 1, True]),
        ({"min": 2, "max": 4}, "int_uniform", [2, 3, 4]),
        ({"min": 0.1, "max": 0.4, "distribution": "q_uniform", "q": 0.1}, "q_uniform", [0.1, 0.2, 0.3, 0.4]),
        ({"min": 2.0, "max": 4.0}, "uniform", None),
        ({"min": 1e-5, "max": 1e-3, "distribution": "log_uniform_values"}, "log_uniform_values", None),
    ],
)
def test_kind_and_points(keys: dict[str, Any], kind: str, points: list[Any] | None) -> None:
    parameter = Parameter(**keys)
    assert parameter.kind == kind
    assert parameter.points() == points


def test_distributions() -> None:
    def of(**keys: Any) -> object:
        return distribution(Parameter(**keys))

    assert of(values=[1, [2, 3]]) == CategoricalDistribution([1, "[2, 3]"])
    assert of(min=1, max=9) == IntDistribution(1, 9)
    assert of(min=0.5, max=1.5) == FloatDistribution(0.5, 1.5)
    assert of(min=0.0, max=1.1, q=0.25, distribution="q_uniform") == FloatDistribution(0.0, 1.0, step=0.25)
    assert of(min=0.1, max=1.0, distribution="log_uniform_values") == FloatDistribution(0.1, 1.0, log=True)
    assert of(min=-2.0, max=0.0, distribution="log_uniform") == FloatDistribution(math.exp(-2), 1.0, log=True)


def test_a_grid_has_every_combination_once() -> None:
    parameters = {"a": Parameter(values=[1, 2]), "b": Parameter(value="x"), "c": Parameter(min=0, max=2)}
    points = grid(Path("s.yaml"), parameters)
    assert points[:2] == [{"a": 1, "b": "x", "c": 0}, {"a": 1, "b": "x", "c": 1}]
    assert len({tuple(point.values()) for point in points}) == len(points) == 6
    with pytest.raises(UserError, match=r"s\.yaml: parameters\.d: uniform has no grid"):
        grid(Path("s.yaml"), {"d": Parameter(min=0.0, max=1.0)})


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.5]))
def test_quantized_log_values_are_steps_within_the_bounds(seed: int, q: float) -> None:
    parameter = Parameter(min=0.1, max=2.0, q=q, distribution="q_log_uniform_values")
    trial = create_study(sampler=RandomSampler(seed=seed)).ask({"p": distribution(parameter)})
    value = rounded(parameter, trial.params["p"])
    assert 0.1 <= value <= 2.0
    assert value == 0.1 or abs(value / q - round(value / q)) < 1e-6
    assert abs(value - trial.params["p"]) <= q / 2 + 1e-9
