"""A checkpoint's manifest: size and sha256 of each file, written last, and checked before anything is loaded."""

import hashlib
import os
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from altpo_ds.config.files import sync, write_whole

NAME = "manifest.json"


class Entry(BaseModel):
    """What a file was when it was written."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """The files of checkpoint `step`, by their path within it."""

    model_config = ConfigDict(frozen=True)

    step: int
    files: dict[str, Entry]

    @field_validator("files")
    @classmethod
    def _within(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        """No name leads out of the checkpoint."""
        for name in files:
            if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r} is no file of it")
        return files


def read(checkpoint: Path) -> Manifest | str:
    """A checkpoint's manifest, or what is wrong with it."""
    file = checkpoint / NAME
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return f"'{file}' is missing"
    except (OSError, ValidationError) as error:
        return f"'{file}' is damaged ({str(error).splitlines()[0]})"


def write(checkpoint: Path, manifest: Manifest) -> None:
    """Makes the checkpoint complete: the manifest and the names in every folder are on disk when it returns."""
    for folder, _, _ in os.walk(checkpoint):
        sync(Path(folder))
    write_whole(checkpoint / NAME, manifest.model_dump_json(indent=1))


def describe(file: Path) -> Entry:
    """A file's entry; its bytes are on disk when it returns."""
    sync(file)
    return Entry(size=file.stat().st_size, sha256=_sha256(file))


def damage(checkpoint: Path, rank: int = 0, ranks: int = 1) -> str | None:
    """What is wrong with the manifest or a rank's share of the files; None where they are as they were written."""
    manifest = read(checkpoint)
    if isinstance(manifest, str):
        return manifest
    for name in sorted(manifest.files)[rank::ranks]:
        file, entry = checkpoint / name, manifest.files[name]
        try:
            size = file.stat().st_size
            if size != entry.size:
                return f"'{file}' is damaged ({size} bytes, {entry.size} were written)"
            if _sha256(file) != entry.sha256:
                return f"'{file}' is damaged (its sha256 is not the manifest's)"
        except OSError as error:
            return f"'{file}' cannot be read ({error.strerror})"
    return None


def as_written(checkpoint: Path, manifest: Manifest) -> bool:
    """The cheap check: the manifest reads back, and every file has its size."""
    try:
        sizes = {name: (checkpoint / name).stat().st_size for name in manifest.files}
    except OSError:
        return False
    return read(checkpoint) == manifest and sizes == {name: entry.size for name, entry in manifest.files.items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
