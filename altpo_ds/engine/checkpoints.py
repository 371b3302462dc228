"""Checkpoints that are there wholly or not at all: written aside, described by a manifest, then renamed."""

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from altpo_ds.config.errors import UserError
from altpo_ds.engine import roll_call
from altpo_ds.engine.distributed import World, gather_objects, together

MANIFEST = "manifest.json"


def complete(folder: Path) -> list[Path]:
    """Checkpoints under `folder` that have a manifest, oldest first."""
    found = [(int(m[1]), path) for path in folder.glob("step-*") if (m := re.fullmatch(r"step-(\d+)", path.name))]
    return [path for _, path in sorted(found) if (path / MANIFEST).is_file()]


def save(
    folder: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], world: World, keep: int
) -> Path:
    """Writes checkpoint `step`: `write` puts the engine's shards, `state` is the trainer's and the data's.

    All ranks call it together. Older checkpoints beyond `keep` go once this one is complete.
    """
    final, aside = folder / f"step-{step}", folder / f".step-{step}.partial"
    if world.is_main:
        for stale in folder.glob(".step-*.partial"):
            shutil.rmtree(stale)
        aside.mkdir(parents=True)
    dist.barrier()
    with together():
        try:
            write(aside)
            torch.save(_rng_state(), aside / f"rng-{world.rank}.pt")
            if world.is_main:
                (aside / "state.json").write_text(json.dumps(state | {"world_size": world.size}))
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            if roll_call.is_broken(error):
                raise
            raise UserError(f"cannot write checkpoint '{final}': {error}; the previous one is intact") from error
    described = _describe(aside, world)
    if world.is_main:
        _write_synced(aside / MANIFEST, json.dumps({"step": step, "files": described}, indent=1))
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        _sync_folder(folder)
        for old in complete(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def load(checkpoint: Path, read: Callable[[Path], None], world: World) -> dict[str, Any]:
    """Checks every file against the manifest, restores the engine and the RNG states, returns the saved state."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())["files"]
    with together():
        for name in sorted(manifest)[world.rank :: world.size]:
            _verify(checkpoint / name, manifest[name])
    state = json.loads((checkpoint / "state.json").read_text())
    if state["world_size"] != world.size:
        raise UserError(
            f"checkpoint '{checkpoint}' was written by {state['world_size']} ranks, this run has {world.size}; "
            f"start {state['world_size']} ranks, or give another run_dir"
        )
    read(checkpoint)
    _set_rng_state(torch.load(checkpoint / f"rng-{world.rank}.pt", weights_only=False))
    return state


def _describe(folder: Path, world: World) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file, the hashing shared out over the ranks; files are on disk before it returns."""
    dist.barrier()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    mine: dict[str, dict[str, Any]] = {}
    for name in names[world.rank :: world.size]:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
            mine[name] = {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    parts = gather_objects(mine)
    return dict(sorted(item for part in parts for item in part.items()))


def _verify(file: Path, expected: dict[str, Any]) -> None:
    if not file.is_file():
        raise UserError(f"checkpoint file '{file}' is missing; resume from an older one with --resume PATH")
    if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
        raise UserError(f"checkpoint file '{file}' is damaged; resume from an older one with --resume PATH")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_synced(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _rng_state() -> dict[str, Any]:
    state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
