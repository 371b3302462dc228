"""The files of a checkpoint that one rank writes: at once, or from copies in host memory while training goes on."""

import threading
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from altpo_ds.engine import manifest
from altpo_ds.engine.manifest import Entry


class Put(Protocol):
    """Puts an object into a file of the checkpoint that is being written."""

    def __call__(self, value: Any, file: Path, /) -> None: ...


class Parts:
    """`put` never raises: other ranks may be in the middle of a collective. The first failure is `wait`'s to raise."""

    def __init__(self, at_once: bool) -> None:
        self.failure: Exception | None = None
        self._described: dict[Path, Entry] = {}
        self._copies: list[tuple[Any, Path]] = []
        self._at_once = at_once
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)

    def put(self, value: Any, file: Path) -> None:
        """As Put: writes the file, or copies the value's tensors to host memory for the thread to write."""
        if not self._at_once:
            self._copies.append((tree_map_only(Tensor, _copy, value, is_leaf=_is_size), file))
        elif self.failure is None:
            try:
                torch.save(value, file)
            except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
                self.failure = error

    def start(self) -> None:
        """Everything is put: lets the thread write the copies."""
        self._thread.start()

    @property
    def written(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> dict[Path, Entry]:
        """The files that the thread wrote, once they are on disk. Raises what went wrong, OSError or RuntimeError."""
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self._described

    def _write(self) -> None:
        try:
            for value, file in self._copies:
                torch.save(value, file)
                self._described[file] = manifest.describe(file)
        except Exception as error:  # a thread's exceptions would be lost
            self.failure = self.failure or error
        finally:
            self._copies.clear()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _is_size(value: Any) -> bool:
    return isinstance(value, torch.Size)  # a tuple, as which it would come back
