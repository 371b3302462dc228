"""Checkpoints that are there wholly or not at all: written aside, described by a manifest, then renamed."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder, sync
from altpo_ds.data.stream import draw_seed
from altpo_ds.engine import manifest, trust
from altpo_ds.engine.distributed import World, broadcast_object, gather_objects, together
from altpo_ds.engine.manifest import Entry, Manifest
from altpo_ds.engine.parts import Parts, Put
from altpo_ds.engine.rng import rng_state, seed_all, set_rng_state

log = logging.getLogger(__name__)

STATE = "state.json"


class Saver:
    """Writes a run's checkpoints and keeps the newest `keep`. All ranks call its methods together.

    A checkpoint is complete when `save` returns; or, with `wait=False`, its state is in host memory then, a thread
    writes it while training goes on, and `advance` completes it at the first step at which all ranks have written.
    """

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        self._step = 0
        self._parts: Parts | None = None

    def save(self, step: int, write: Callable[[Path, Put], None], state: dict[str, Any], *, wait: bool = True) -> None:
        """Writes checkpoint `step`: `write` puts what is each rank's own, `state` is the same on all and small.

        UserError where it cannot be written; the checkpoint before it is intact then.
        """
        self.finish()
        self._step = step
        with self._writing():
            if self.world.is_main:
                make_folder(self.folder)
                sync(self.folder.parent)
                _remove_hidden(self.folder)
                self._aside.mkdir()
        self._parts = parts = Parts(at_once=wait)
        try:
            write(self._aside, parts.put)
            parts.put(rng_state(), self._aside / f"rng-{self.world.rank}.pt")
            if self.world.is_main:
                (self._aside / STATE).write_text(json.dumps(state))
        except OSError as error:
            parts.failure = error
        parts.start()
        if wait:
            self.finish()

    def advance(self) -> None:
        """Completes the checkpoint that is being written, once every rank has written its part."""
        if self._parts is not None and all(gather_objects(self._parts.written)):
            self.finish()

    def finish(self) -> None:
        """Completes the checkpoint that is being written, if any."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
        try:
            with self._writing():
                described = parts.wait()
            files = self._describe_rest(described)
            with self._writing():
                if self.world.is_main:
                    self._complete(Manifest(step=self._step, files=files))
        except UserError:
            if self.world.is_main:
                shutil.rmtree(self._aside, ignore_errors=True)
            raise

    @property
    def _aside(self) -> Path:
        return self.folder / f".step-{self._step}.partial"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """On all ranks: what one cannot write stops all."""
        with together():
            try:
                yield
            except (OSError, RuntimeError) as error:
                final = self.folder / f"step-{self._step}"
                raise UserError(f"cannot write checkpoint '{final}': {error}; the previous one is intact") from error

    def _describe_rest(self, described: dict[Path, Entry]) -> dict[str, Entry]:
        """Entries of all files: the threads' own, and the others, whose hashing the ranks share out."""
        entries = {
            str(file.relative_to(self._aside)): entry
            for part in gather_objects(described)
            for file, entry in part.items()
        }
        names = broadcast_object(_files(self._aside) if self.world.is_main else [])
        rest = [name for name in names if name not in entries]
        with self._writing():
            mine = {name: manifest.describe(self._aside / name) for name in rest[self.world.rank :: self.world.size]}
        for part in gather_objects(mine):
            entries |= part
        return dict(sorted(entries.items()))

    def _complete(self, written: Manifest) -> None:
        """Gives the checkpoint its name. Older ones go only after it is complete and reads back as it was written."""
        final = self.folder / f"step-{self._step}"
        manifest.write(self._aside, written)
        if final.exists():  # damaged, or of a future that the run has left for an older checkpoint
            _hide(final)
        self._aside.rename(final)
        sync(self.folder)
        if not manifest.as_written(final, written):
            raise UserError(f"checkpoint '{final}' does not read back as it was written; the older ones are kept")
        past = [path for step, path in _numbered(self.folder) if step <= self._step]
        for _, path in _numbered(self.folder):
            if path not in past[-self.keep :]:
                _hide(path)
        _remove_hidden(self.folder)


def complete(folder: Path) -> list[Path]:
    """Checkpoints under `folder` that have a manifest, oldest first."""
    return [path for _, path in _numbered(folder) if (path / manifest.NAME).is_file()]


def newest_usable(folder: Path, world: World) -> Path | None:
    """The newest checkpoint whose files are all as they were written; None where there never was a checkpoint.

    All ranks call it together and share the reading. A damaged one is named, and the one before it taken; UserError
    where none is left. A step-N folder gets its name with a manifest in it, so that one without has lost it.
    """
    found = broadcast_object([path for _, path in _numbered(folder)] if world.is_main else [])
    for path in reversed(found):
        damaged = damage(path, world)
        if damaged is None:
            return path
        if world.is_main:
            log.warning("checkpoint file %s; looking for an older checkpoint", damaged)
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in '{folder}' can be used; restore one, or give another run_dir "
            "for a fresh start"
        )
    return None


def damage(checkpoint: Path, world: World) -> str | None:
    """What is wrong with a checkpoint, the same on every rank: the ranks share the reading. None: nothing."""
    found = gather_objects(manifest.damage(checkpoint, world.rank, world.size))
    return next((problem for problem in found if problem is not None), None)


def load(checkpoint: Path, read: Callable[[Path, dict[str, Any]], None], world: World) -> dict[str, Any]:
    """Restores the engine, by `read` (which also gets the layout that was saved), and the random number generators
    from a checkpoint that is not damaged; returns the saved state.

    On another number of ranks the generators begin anew, as a function of seed, step and rank. UserError for a file
    that holds more than data.
    """
    with together():
        state = _read_state(checkpoint)
        trust.refuse_code(checkpoint, world.rank, world.size)
    with trust.restricted():
        read(checkpoint, state["layout"])
    if state["layout"]["ranks"] == world.size:
        set_rng_state(trust.load(checkpoint / f"rng-{world.rank}.pt"))
    else:
        seed_all(draw_seed(state["seed"], "resumed", state["step"], world.rank))
    return state


def _read_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state = json.loads((checkpoint / STATE).read_text())
        _ = state["step"], state["seed"], state["data"], state["layout"]["ranks"]
        return state
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{checkpoint / STATE}' cannot be read ({error!r}); use another checkpoint") from error


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The step-N folders with their N, oldest first."""
    return sorted((int(m[1]), path) for path in folder.glob("step-*") if (m := re.fullmatch(r"step-(\d+)", path.name)))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _hide(checkpoint: Path) -> None:
    """Takes a checkpoint away in one move; deleting takes several, between which it would be a damaged one."""
    checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old"))


def _remove_hidden(folder: Path) -> None:
    """Deletes what is hidden, also what a crash left."""
    for stale in folder.glob(".step-*"):
        shutil.rmtree(stale)
