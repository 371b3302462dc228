"""Where the values of a run come from: the file, the environment and the dotted options, each one a layer."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from altpo_ds.config.errors import UserError
from altpo_ds.config.keys import dotted_keys, known_part, suggestion
from altpo_ds.config.schema import RunConfig

PREFIX = "ALTPO_"
NULL = ("null", "None")  # W&B's agent writes the latter
RESERVED = {"ALTPO_CACHE"}  # the cache folder, not a key of a run

LARGEST = 100_000  # values of a YAML document

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Nested values of one source, and how the user spelled their keys."""

    values: dict[str, Any]
    place: str
    spelled: dict[Keys, str] = field(default_factory=dict)


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, with a key written twice as an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if (name := str(key.value)) in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name!r} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """A key that is merged in several times stays once, the last one: merges of merges would multiply."""
        super().flatten_mapping(node)
        node.value = list({(key.tag, str(key.value)): (key, value) for key, value in node.value}.values())


def load_yaml(text: str) -> Any:
    """A YAML document. yaml.YAMLError, ValueError or RecursionError for one that is broken, or grows by its aliases."""
    values = yaml.load(text, UniqueKeyLoader)
    if _size(values, {}) > LARGEST:
        raise ValueError(f"holds more than {LARGEST} values when its aliases are written out")
    return values


def _size(value: Any, sizes: dict[int, int | None]) -> int:
    """Values in a document with its aliases written out; ValueError for an alias inside of what it stands for."""
    if not isinstance(value, dict | list):
        return 1
    size = sizes.get(id(value), 0)
    if size is None:
        raise ValueError("an alias stands for what it lies in")
    if not size:
        sizes[id(value)] = None
        parts = value.values() if isinstance(value, dict) else value
        size = sizes[id(value)] = 1 + sum(_size(part, sizes) for part in parts)
    return size


def read_text(path: Path) -> str:
    """Text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}") from None


def file_layer(path: Path) -> Layer:
    return Layer(read_yaml(path, "a run file is a mapping of keys, at least run_dir and model"), str(path))


def read_yaml(path: Path, wanted: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; `wanted` tells the user what belongs there."""
    try:
        values = load_yaml(read_text(path))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: invalid YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date like 2024-13-45
        raise UserError(f"{path}: invalid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        held = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path}: holds {held}; {wanted}")
    return values


def environment_layer(environment: Mapping[str, str]) -> Layer:
    names = sorted(name for name in environment if name.startswith(PREFIX) and name not in RESERVED)
    texts = {tuple(name.removeprefix(PREFIX).lower().split("__")): environment[name] for name in names}
    spelled = {tuple(name.removeprefix(PREFIX).lower().split("__")): name for name in names}
    return _text_layer("environment variable", texts, spelled)


def option_layer(options: Sequence[str]) -> Layer:
    """`--a.b=value` and `--a.b value`; of an option given twice the last one counts."""
    texts: dict[Keys, str] = {}
    spelled: dict[Keys, str] = {}
    rest = iter(options)
    for word in rest:
        if not word.startswith("--") or word == "--":
            raise UserError(f"argument {word!r}: not expected; overrides look like --objective.beta=0.05")
        name, given, value = word.partition("=")
        if not given:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise UserError(f"option {name}: has no value; write {name}=VALUE")
        keys = tuple(name.removeprefix("--").split("."))
        texts[keys], spelled[keys] = value, name
    return _text_layer("option", texts, spelled)


def _text_layer(place: str, texts: dict[Keys, str], spelled: dict[Keys, str]) -> Layer:
    """Texts by key, decoded as the schema's types ask: null, and YAML (so JSON too) for lists and sections."""
    for keys in texts:
        if known_part(keys) != keys:
            hint = suggestion(".".join(keys), dotted_keys())
            raise UserError(f"{place} {spelled[keys]}: unknown key; {hint}")
        if whole := next((spelled[keys[:i]] for i in range(1, len(keys)) if keys[:i] in texts), None):
            raise UserError(f"{place} {spelled[keys]}: contradicts {whole}, which sets the whole section; drop one")
    source = _TextSource(RunSettings, env_prefix="", env_nested_delimiter=".", case_sensitive=True)
    source.env_vars = {".".join(keys): text for keys, text in texts.items() if text not in NULL}
    values = source()
    for keys in (keys for keys, text in texts.items() if text in NULL):
        section = values
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = None
    return Layer(values, place, spelled)


class RunSettings(RunConfig, BaseSettings):
    """The schema in the form that pydantic-settings reads sources for."""


class _TextSource(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list or section as YAML; anything else stays text, for the schema to accept or refuse."""
        try:
            decoded = load_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            return value
        return decoded if isinstance(decoded, list | dict) else value
