"""A sweep file in W&B's format, checked against the keys and values of a run before the first trial starts."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from altpo_ds.config.errors import UserError
from altpo_ds.config.load import load_config
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.sources import read_yaml
from altpo_ds.sweep.space import Parameter, grid

RUN_ID = "WANDB_RUN_ID"  # W&B's agent sets it for each trial, and so does the offline worker
VERB = "unlearn"
MACROS = ("${env}", "${interpreter}", "${program}", "${args}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Metric(_Strict):
    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None  # W&B ends a sweep there


class EarlyTerminate(_Strict):
    """Hyperband's brackets as W&B has them; offline they say from which evaluation on the median prunes."""

    type: Literal["hyperband"]
    min_iter: int | None = Field(default=None, ge=1)
    max_iter: int | None = Field(default=None, ge=1)
    s: int | None = Field(default=None, ge=1)
    eta: float = Field(default=3, gt=1)
    strict: bool = False

    @property
    def first(self) -> int:
        """Number of the first evaluation at which a trial may end."""
        return self.min_iter or max(1, round((self.max_iter or 1) / self.eta ** (self.s or 1)))


class SweepFile(_Strict):
    """The keys that W&B knows; those that only its server uses are taken and left alone."""

    program: str | None = None
    command: list[str] = ["${env}", "${interpreter}", "${program}", "${args}"]
    method: Literal["grid", "random", "bayes"]
    metric: Metric | None = None
    parameters: dict[str, Parameter] = Field(min_length=1)
    early_terminate: EarlyTerminate | None = None
    run_cap: int | None = Field(default=None, ge=1)
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    def words(self, arguments: Sequence[str], ranks: int = 1) -> list[str]:
        """The command of a trial, its macros filled in as W&B's agent does; `ranks` of them under torchrun."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": [sys.executable, *torchrun],
            "${program}": [self.program] if self.program else [],
            "${args}": list(arguments),
        }
        return [word for part in self.command for word in macros.get(part, [_with_environment(part)])]


@dataclass(frozen=True)
class Sweep:
    """A sweep file whose command starts `unlearn` runs. `run` is the run below the parameters."""

    path: Path
    file: SweepFile
    run: RunConfig
    folder: Path

    def run_dir(self, trial: str) -> Path:
        return self.folder / trial


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file and tries each of its values on the run. Raises UserError for the first that is wrong."""
    values = read_yaml(path, "a sweep file is a mapping with method, parameters and command")
    try:
        file = SweepFile.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_describe(error)}") from None
    for word in file.command:
        if word.startswith("${") and word not in MACROS and not word.startswith("${envvar:"):
            raise UserError(f"{path}: command: {word}: unknown; known are {', '.join(MACROS)}")
    if "${args}" not in file.command:
        raise UserError(f"{path}: command: has no ${{args}}, so no trial would get its parameters; add it at the end")
    if file.early_terminate and not file.metric:
        raise UserError(f"{path}: early_terminate: needs metric, whose values say which trial fell behind")
    if file.method == "grid":
        grid(path, file.parameters)
    run, folder = _run_and_folder(path, file)
    for name, parameter in file.parameters.items():
        for value in parameter.points() or parameter.span:
            try:
                with _environment(RUN_ID, "trial"):
                    _load(file.words([argument(name, value)]))
            except UserError as error:
                raise UserError(f"{path}: parameters: {error}") from None
    return Sweep(path, file, run, folder)


def argument(name: str, value: Any) -> str:
    """A parameter as the command line takes it."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    return f"--{name}={text}"


def _run_and_folder(path: Path, file: SweepFile) -> tuple[RunConfig, Path]:
    """The run without parameters, and the folder that holds the run directories of all trials."""
    words = file.words([])
    if VERB not in words or words.index(VERB) + 1 == len(words):
        raise UserError(f"{path}: command: starts no `{VERB} RUN.yaml`; see docs/sweeps.md for one that does")
    runs = []
    for trial in ("first", "second"):
        with _environment(RUN_ID, trial):
            runs.append(_load(words))
    first, second = (Path(run.run_dir) for run in runs)
    if first.name != "first" or first.parent != second.parent:
        raise UserError(
            f"{path}: command: the trials' run_dir is '{first}', which must end in /${RUN_ID}; "
            f"add --run_dir=runs/sweep/${RUN_ID}"
        )
    return runs[0], first.parent


def _load(words: Sequence[str]) -> RunConfig:
    place = words.index(VERB)
    return load_config(words[place + 1], words[place + 2 :])


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _with_environment(word: str) -> str:
    """W&B's ${envvar:NAME}; a variable that is not set leaves its name, as there."""
    return re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda found: os.environ.get(found[1], found[1]), word)


def _describe(error: ValidationError) -> str:
    """One line for the most telling error."""
    detail = min(error.errors(include_url=False), key=lambda detail: detail["type"] == "missing")
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{place}: missing"
    if detail["type"] == "extra_forbidden":
        known = _known(detail["loc"])
        near = get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"{place}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{place} = {detail['input']!r}: {message}"


def _known(place: Sequence[Any]) -> list[str]:
    models = {"metric": Metric, "early_terminate": EarlyTerminate, "parameters": Parameter}
    return list((models[str(place[0])] if len(place) > 1 else SweepFile).model_fields)
