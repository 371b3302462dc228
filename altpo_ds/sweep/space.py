"""W&B's parameters as Optuna's distributions, and the points of a grid."""

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from altpo_ds.config.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Distribution = Literal[
    "constant",
    "categorical",
    "int_uniform",
    "uniform",
    "q_uniform",
    "log_uniform",
    "log_uniform_values",
    "q_log_uniform_values",
]


class Parameter(BaseModel):
    """One of `value`, `values`, or `min` and `max` with the distribution between them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: Any = None
    values: list[Any] | None = Field(default=None, min_length=1)
    distribution: Distribution | None = None
    min: int | float | None = None
    max: int | float | None = None
    q: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        ranged = self.min is not None and self.max is not None
        forms = [self.values is not None, "value" in self.model_fields_set, ranged]
        if sum(forms) != 1:
            raise ValueError("give one of: value; values; min and max")
        if ranged and self.min >= self.max:  # type: ignore[operator]
            raise ValueError(f"min {self.min} must be below max {self.max}")
        wanted = self.distribution
        fits = {"constant": forms[1], "categorical": forms[0]}.get(wanted or self.kind, ranged)
        if not fits:
            raise ValueError(f"distribution {wanted} does not fit its other keys")
        if self.kind.startswith("log_uniform_v") and ranged and self.min <= 0:  # type: ignore[operator]
            raise ValueError(f"min {self.min} must be above 0 under {self.kind}")
        return self

    @property
    def kind(self) -> Distribution:
        """The distribution, told from the other keys where it is not given."""
        if self.distribution:
            return self.distribution
        if self.values is not None:
            return "categorical"
        if self.min is None or self.max is None:
            return "constant"
        return "int_uniform" if isinstance(self.min, int) and isinstance(self.max, int) else "uniform"

    @property
    def span(self) -> tuple[Any, Any]:
        """The lowest and highest value; of log_uniform, whose min and max are exponents, too."""
        assert self.min is not None
        assert self.max is not None
        if self.kind == "log_uniform":
            return math.exp(self.min), math.exp(self.max)
        return self.min, self.max

    @property
    def step(self) -> float:
        return self.q or 1.0

    def points(self) -> list[Any] | None:
        """All values, where they can be counted."""
        if self.kind == "constant":
            return [self.value]
        if self.kind == "categorical":
            return self.values
        low, high = self.span if self.min is not None else (0, 0)
        if self.kind == "int_uniform":
            return list(range(low, high + 1))
        if self.kind == "q_uniform":
            return [round(low + i * self.step, 12) for i in range(math.floor((high - low) / self.step + 1e-9) + 1)]
        return None


def distribution(parameter: Parameter) -> "BaseDistribution":
    """What Optuna samples from. Values that are lists or sections travel as JSON, which the command line takes."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.kind in ("constant", "categorical"):
        return CategoricalDistribution([_plain(value) for value in parameter.points() or []])
    low, high = parameter.span
    if parameter.kind == "int_uniform":
        return IntDistribution(low, high)
    if parameter.kind == "q_uniform":
        return FloatDistribution(low, (parameter.points() or [high])[-1], step=parameter.step)
    return FloatDistribution(low, high, log=parameter.kind != "uniform")


def rounded(parameter: Parameter, value: Any) -> Any:
    """A sampled value as the run gets it: Optuna has no steps on a logarithmic scale."""
    if parameter.kind != "q_log_uniform_values":
        return value
    low, high = parameter.span
    return min(high, max(low, round(round(value / parameter.step) * parameter.step, 12)))


def grid(path: Path, parameters: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """All combinations, the last parameter changing fastest. UserError for one that has no countable values."""
    points = {}
    for name, parameter in parameters.items():
        values = parameter.points()
        if values is None:
            raise UserError(f"{path}: parameters.{name}: {parameter.kind} has no grid; give values, or q_uniform")
        points[name] = [_plain(value) for value in values]
    return [dict(zip(points, combination, strict=True)) for combination in product(*points.values())]


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
