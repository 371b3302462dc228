"""Evaluations on disk, found again by what they are made of: model, rows, settings, and the code that measured."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from altpo_ds.config.files import write_whole
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.section import Source
from altpo_ds.data.sources import describe
from altpo_ds.engine.models import model_hash
from altpo_ds.engine.reference_cache import cache_folder

NO_MATTER = {"batch_tokens"}  # how the work is cut up
PACKAGE = Path(__file__).parents[1]


def evaluation_file(config: RunConfig, model: str, dtype: str) -> Path:
    """Where the evaluation of the model at `model`, computed in `dtype`, is kept or to be kept."""
    made_of = {
        "model": model_hash(model),
        "dtype": dtype,
        "attention": config.model.attention,
        "system_prompt": config.data.system_prompt,
        "seed": config.seed,
        "evaluate": _content(config.evaluate),
        "code": _code(),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "evaluation" / f"{key}.json"


def find(file: Path) -> dict[str, Any] | None:
    """An evaluation kept earlier; None where there is none or where it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(file: Path, evaluation: dict[str, Any]) -> None:
    write_whole(file, json.dumps(evaluation, ensure_ascii=False))


def _content(value: Any) -> Any:
    """Settings with the content of files and models in place of their paths, so that moved ones are found again."""
    if isinstance(value, Source):
        settings = value.model_dump(mode="json", exclude={"path"})
        return {**settings, "files": [{**entry, "file": None} for entry in describe(value)]}
    if isinstance(value, BaseModel):
        return {name: _content(getattr(value, name)) for name in type(value).model_fields if name not in NO_MATTER}
    if isinstance(value, str) and (Path(value) / "config.json").is_file():
        return model_hash(value)
    if isinstance(value, str) and Path(value).exists():
        return _hash(Path(value))
    return value


@cache
def _code() -> str:
    """A hash of the package: a metric that was mended is computed anew."""
    return _hash(PACKAGE)


def _hash(path: Path) -> str:
    """Of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
