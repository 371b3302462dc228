"""Loading of files that torch wrote without running what may be hidden in them.

A pickle can name any function to call. torch's restricted unpickler calls none but those that rebuild tensors and
the few named here; DeepSpeed loads its shards unrestricted unless it runs inside `restricted`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from altpo_ds.config.errors import UserError

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load then overrules a caller's weights_only=False


@contextlib.contextmanager
def restricted() -> Iterator[None]:
    """Every torch.load inside, DeepSpeed's too, is a restricted one; raises pickle.UnpicklingError where it refuses."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with safe_globals([ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def load(file: Path) -> Any:
    """What torch.save put there, its tensors on the CPU and read from the file when they are used."""
    with restricted():
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def refuse_code(checkpoint: Path, rank: int = 0, ranks: int = 1) -> None:
    """UserError for a file that would call something, among a rank's share of the checkpoint's; nothing is unpickled
    to see it.
    """
    with restricted():
        for file in sorted(checkpoint.rglob("*.pt"))[rank::ranks]:
            _refuse(file)


def _refuse(file: Path) -> None:
    remedy = "it was not loaded; use a checkpoint that this program wrote and nobody changed"
    try:
        found = get_unsafe_globals_in_checkpoint(str(file))
    except Exception as error:  # the pickle's parser raises what the bytes make it stumble over
        raise UserError(f"checkpoint file '{file}' is not a file that torch.save wrote; {remedy}") from error
    if found:
        raise UserError(f"checkpoint file '{file}' holds code, not data ({found[0]!r}); {remedy}")
