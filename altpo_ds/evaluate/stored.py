"""What the files of a run directory must hold for the report to read them; further keys are free."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from altpo_ds.config.errors import UserError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Stored(BaseModel):
    """Base of all below."""

    model_config = ConfigDict(extra="allow")


class StoredRow(Stored):
    """A row of an evaluation, with the values that a suite has found for it."""

    question: StrictStr
    answer: StrictStr
    generation: StrictStr | None = None
    answer_nll: Number | None = None
    paraphrased_nll: Number | None = None
    perturbed_nll: list[Number] | None = None
    rouge_l: Number | None = None


class StoredSettings(Stored):
    dialect: Literal["altpo", "tofu_trainer", "openunlearning"] = "altpo"


class StoredEvaluation(Stored):
    """evaluation.json."""

    metrics: dict[str, Number | None]
    per_example: dict[str, list[StoredRow]] | None = None
    settings: StoredSettings | None = None
    reasons: dict[str, StrictStr] | None = None
    intervals: dict[str, tuple[Number, Number]] | None = None
    notes: dict[str, StrictStr] | None = None
    curves: dict[str, list[dict[str, Number]]] | None = None


class StoredLine(Stored):
    """A line of metrics.jsonl."""

    step: Annotated[StrictInt, Field(ge=0)]

    @model_validator(mode="after")
    def _metrics_are_numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if "/" in name and (isinstance(value, bool) or not isinstance(value, int | float | None)):
                raise ValueError(f"{name} must be a number")
        return self


class StoredTracking(Stored):
    examples: Annotated[StrictInt, Field(ge=0)] = 0


class StoredReferences(Stored):
    retain_reference: StrictStr | None = None


class StoredConfig(Stored):
    """config.yaml, of this version or another."""

    objective: dict[str, Any] = {}
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}
    tracking: StoredTracking = StoredTracking()
    evaluate: StoredReferences = StoredReferences()


def check(document: Any, form: type[Stored], place: str | Path) -> None:
    """UserError with the place and the key of the first value that is not what it must be."""
    try:
        form.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise UserError(f"{place}: {key + ': ' if key else ''}{reason}; write the file anew") from None
