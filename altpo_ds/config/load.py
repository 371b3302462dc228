"""Reading a run: YAML file, then environment, then dotted options, the later over the earlier."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from altpo_ds.config.errors import UserError
from altpo_ds.config.keys import dotted_keys, known_part, section_of, suggestion
from altpo_ds.config.schema import RunConfig, Section
from altpo_ds.config.sources import Layer, environment_layer, file_layer, option_layer

LONGEST_VALUE = 80  # characters of a wrong value that a message shows


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file under `ALTPO_OBJECTIVE__BETA=0.05` and `--objective.beta=0.05`.

    Relative paths stay relative to the working directory. Raises UserError for anything wrong.
    """
    layers = [file_layer(Path(path)), environment_layer(os.environ), option_layer(overrides)]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise UserError(_describe(error, layers)) from None


def dump_config(config: RunConfig) -> str:
    """YAML that loads to an equal run; beyond ASCII escaped, since YAML would fold some of Unicode's line ends."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _describe(error: ValidationError, layers: Sequence[Layer]) -> str:
    """One line for the most telling error: a wrong key before the missing one that it was meant to be."""
    details = error.errors(include_url=False)
    first = min(details, key=lambda detail: detail["type"] == "missing")
    path = known_part(first["loc"])
    if first["type"] == "missing" and path == first["loc"]:
        return f"{_place(path[:-1], layers)}: {'.'.join(path)}: missing; {_meaning(path)}"
    if first["type"] in ("extra_forbidden", "invalid_key"):
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        return f"{_place(first['loc'], layers)}: {key}: unknown key; {suggestion(key, dotted_keys())}"
    # the members of a union (a path or a list of paths) fail one by one: together they say what is allowed
    reasons = [_reason(detail, path) for detail in details if known_part(detail["loc"]) == path]
    if "secret" in first["msg"]:  # the message names the field; its value is not to be shown
        return f"{_place(path, layers)}: {'.'.join(path)}: {reasons[0]}"
    value = json.dumps(first["input"], default=str, ensure_ascii=False)
    if len(value) > LONGEST_VALUE:
        value = value[:LONGEST_VALUE] + "..."
    return f"{_place(path, layers)}: {'.'.join(path)} = {value}: {' or '.join(dict.fromkeys(reasons))}"


def _place(path: Sequence[Any], layers: Sequence[Layer]) -> str:
    """The last layer that sets the value at a path; the file for the run as a whole."""
    for layer in reversed(layers if path else layers[:1]):
        if _holds(layer.values, path):
            name = next((name for keys, name in layer.spelled.items() if _related(keys, path)), None)
            return f"{layer.place} {name}" if name else layer.place
    return layers[0].place


def _holds(values: Any, path: Sequence[Any]) -> bool:
    for part in path:
        if part == "[key]":
            break
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _related(keys: Sequence[str], path: Sequence[Any]) -> bool:
    """Whether one of both is a start of the other."""
    return all(key == part for key, part in zip(keys, path, strict=False))


def _reason(detail: ErrorDetails, path: Sequence[str]) -> str:
    """What is allowed, in pydantic's words made shorter."""
    if detail["type"] in ("model_type", "model_attributes_type"):
        return f"must be a section with the keys {', '.join(_field(path)[1].model_fields)}"
    if detail["type"] == "missing":
        return "too few values"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message.split(", unable to")[0]


def _meaning(path: Sequence[str]) -> str:
    description, section = _field(path)
    return description or f"a section with the keys {', '.join(section.model_fields)}"


def _field(path: Sequence[str]) -> tuple[str | None, type[Section]]:
    """Description of the field at a path, and the section that it is or lies in."""
    section: type[Section] = RunConfig
    description = None
    for part in path:
        field = section.model_fields[part]
        description = field.description
        section = section_of(field.annotation) or section
    return description, section
