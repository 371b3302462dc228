"""Log-probabilities under the frozen reference, computed once and kept on disk, found again by content.

A value's key is a hash of prompt and response tokens; the file's name is the model's hash and dtype. Another data
file, another k or another order finds what is already there and computes only the rest.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import whole_file
from altpo_ds.data.trees import Tree


def response_keys(tree: Tree) -> list[int]:
    """64-bit keys of a tree's responses."""
    prompt = hashlib.blake2b(np.asarray(tree.prompt, dtype=np.int64).tobytes(), digest_size=8)
    keys = []
    for response in tree.responses:
        digest = prompt.copy()
        digest.update(b"|" + np.asarray(response, dtype=np.int64).tobytes())
        keys.append(int.from_bytes(digest.digest(), "little", signed=True))
    return keys


class ReferenceCache:
    """Sorted keys and values of one model; 16 bytes a response in memory and on disk."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys = np.empty(0, np.int64)
        self._values = np.empty(0, np.float64)
        if file.is_file():
            self._keys, self._values = _read(file)

    def missing(self, keys: Iterable[int]) -> list[int]:
        """Those keys without a value, in order."""
        wanted = np.fromiter(keys, np.int64)
        return [int(key) for key in wanted[~np.isin(wanted, self._keys)]]

    def find(self, keys: Iterable[int]) -> np.ndarray:
        """Log-probabilities (R,) of known keys; KeyError where one is missing."""
        wanted = np.fromiter(keys, np.int64)
        places = np.searchsorted(self._keys, wanted)
        places[places == len(self._keys)] = 0
        if len(wanted) and (not len(self._keys) or (self._keys[places] != wanted).any()):
            raise KeyError("a response has no reference log-probability in the cache")
        return self._values[places]

    def add(self, values: dict[int, float]) -> None:
        """Merges values in; the later one wins."""
        merged = dict(zip(self._keys.tolist(), self._values.tolist(), strict=True)) | values
        self._keys = np.array(sorted(merged), dtype=np.int64)
        self._values = np.array([merged[key] for key in self._keys.tolist()], dtype=np.float64)

    def save(self) -> None:
        """Writes the file aside and renames it; concurrent writers leave one of their files, each of them whole."""
        with whole_file(self.file) as aside:
            aside.write_bytes(save({"keys": self._keys, "values": self._values}))


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        stored = load_file(file)
        keys, values = stored["keys"], stored["values"]
        if keys.dtype != np.int64 or values.dtype != np.float64 or keys.ndim != 1 or keys.shape != values.shape:
            raise ValueError("its arrays are not those of a cache")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"cache '{file}' is damaged: {error}; remove it, and it is computed again") from error
    return keys, values


def cache_folder() -> Path:
    """$ALTPO_CACHE, or altpo_ds in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("ALTPO_CACHE") or Path(base) / "altpo_ds")
