"""The dotted keys of the schema, and the nearest one to a wrong key."""

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher, get_close_matches
from typing import Any, get_args

from altpo_ds.config.schema import RunConfig, Section


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds, also when it may be null; None for plain values."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def dotted_keys(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every key below a section, sections themselves included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if inner := section_of(field.annotation):
            yield from dotted_keys(inner, f"{prefix}{name}.")


def known_part(path: Iterable[Any]) -> tuple[str, ...]:
    """The longest start of a path that the schema knows."""
    section: type[Section] | None = RunConfig
    known: list[str] = []
    for part in path:
        if section is None or part not in section.model_fields:
            break
        known.append(part)
        section = section_of(section.model_fields[part].annotation)
    return tuple(known)


def suggestion(key: str, known: Iterable[str]) -> str:
    """What to write in place of an unknown dotted key: the nearest known one, or the keys of its section."""
    known = list(known)
    if key in known:
        return "write it as nested keys, without the dot"
    parent, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    if near := get_close_matches(name, siblings, n=1):
        return f"did you mean {siblings[near[0]]}?"
    elsewhere = [other for other in known if other.rpartition(".")[2] == name] or [
        other for other in known if get_close_matches(name, [other.rpartition(".")[2]], cutoff=0.8)
    ]
    if elsewhere:
        return f"did you mean {max(elsewhere, key=lambda other: SequenceMatcher(None, key, other).ratio())}?"
    if not siblings and (near := get_close_matches(key, known, n=1)):
        return f"did you mean {near[0]}?"
    return f"known keys{f' of {parent}' if siblings and parent else ''}: {', '.join(siblings or known)}"
