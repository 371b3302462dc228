"""The states of the random number generators of a rank, as plain numbers and tensors."""

import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """What `set_rng_state` restores: torch's, its GPU's, NumPy's and Python's generators."""
    _, key, *rest = np.random.get_state()
    numpy = [torch.from_numpy(np.asarray(key).astype(np.int64)), *rest]
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Continues the generators where `rng_state` left them."""
    key, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_all(seed: int) -> None:
    """Begins all generators anew."""
    torch.manual_seed(seed)  # the GPU's, too
    np.random.seed(seed % 2**32)
    random.seed(seed)
