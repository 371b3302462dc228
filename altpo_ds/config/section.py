"""What the sections of a run are made of: strict, frozen models, bounded numbers, and sources of rows."""

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from altpo_ds.config.secrets import without_keys, without_user


def _not_a_bool(value: Any) -> Any:
    """Python counts true as 1; a run file that says so is mistaken."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


NUMBER = BeforeValidator(_not_a_bool)
Positive = Annotated[float, Field(gt=0), NUMBER]
NonNegative = Annotated[float, Field(ge=0), NUMBER]
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
ShareAboveZero = Annotated[float, Field(gt=0, le=1), NUMBER]
Decay = Annotated[float, Field(ge=0, lt=1), NUMBER]
Count = Annotated[int, Field(ge=1), NUMBER]
Natural = Annotated[int, Field(ge=0), NUMBER]
ModelPath = Annotated[str, AfterValidator(os.path.expanduser)]  # a shell leaves ~ alone behind --model.path=


def _with_variables(path: str) -> str:
    """A sweep's trials share a file and differ in the environment: no shell stands between agent and run."""
    expanded = os.path.expandvars(path)
    if missing := re.search(r"\$\{?\w+", expanded):
        raise ValueError(f"names the environment variable {missing[0].lstrip('${')}, which is not set")
    return expanded


RunDir = Annotated[str, AfterValidator(os.path.expanduser), AfterValidator(_with_variables)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """No path, name or text can hold one."""
        if any(isinstance(part, str) and "\0" in part for part in (value if isinstance(value, list) else [value])):
            raise ValueError("must hold no NUL character")
        return value


class Source(Section):
    """Rows: local files (JSONL, JSON, Parquet, Arrow, CSV, also compressed) or a hub dataset."""

    path: str | list[str] = Field(description="file, list of files, glob pattern, or the name of a hub dataset")
    name: str | None = Field(default=None, description="configuration of a hub dataset")
    split: str = Field(default="train", description="split of a hub dataset")
    question: str = Field(default="question", description="column of the question")
    answer: str = Field(default="answer", description="column of the answer")


class AlternatesSource(Source):
    """Alternates, one row per question (a list) or one row per alternate (a string)."""

    alternates: str = Field(default="alternates", description="column of the list of alternates")
    alternate: str = Field(default="sub_answer", description="column of the single alternate, in the long form")


class RetainSource(Source):
    """Question and answer rows, or plain documents."""

    text: str | None = Field(default=None, description="column of a plain document, instead of question and answer")


class PerturbedSource(Source):
    """Evaluation rows; the columns of paraphrase and perturbed answers may be absent where a suite allows it."""

    paraphrased_answer: str = "paraphrased_answer"
    perturbed_answer: str = "perturbed_answer"
    paraphrased_question: str = Field(
        default="paraphrased_question", description="column of a question in other words, or a list of such"
    )


class ServerConfig(Section):
    """A server with OpenAI's interface; its key, if any, is read from the variable OPENAI_API_KEY."""

    url: Annotated[str, AfterValidator(without_user)] = Field(
        default="http://localhost:8000/v1", description="address up to and with /v1"
    )
    model: str | None = Field(default=None, description="name on the server; none: the only one that it serves")
    concurrency: Count = Field(default=16, description="requests under way at the same time")
    timeout: Positive = Field(default=120, description="seconds that a request may take")
    retries: Natural = Field(default=6, description="further tries of a request, each after a longer wait")
    body: Annotated[dict[str, Any], AfterValidator(without_keys)] = Field(
        default={}, description="further fields of each request, such as top_k"
    )
