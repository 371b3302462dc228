"""Tiny models and tokenizers that every room's tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and golden values that lie beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside the project: real data and golden values are not here")
    return SHARED
