"""A ZeRO checkpoint to a Hugging Face directory, on the CPU, one output shard in memory at a time."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder, unwritable
from altpo_ds.engine import checkpoints, manifest, trust

PREFIX = "model."  # the scorer's name for the model that it wraps
SIDE_FILES = "hf"  # folder of a checkpoint with the model's configuration and tokenizer


def newest(run_dir: Path) -> Path:
    """The newest complete checkpoint of a run directory, or the checkpoint that the path itself names."""
    if (run_dir / manifest.NAME).is_file():
        return run_dir
    found = checkpoints.complete(run_dir / "checkpoints")
    if not found:
        raise UserError(f"'{run_dir}' holds no complete checkpoint (checkpoints/step-N with a manifest.json)")
    return found[-1]


def export(checkpoint: Path, to: Path, max_shard_size: str = "5GB") -> Path:
    """Writes `to` as safetensors with configuration and tokenizer, in the dtype that the model trained in.

    Weights are the optimizer's float32 master copies. Raises UserError where `to` exists, and for a checkpoint that is
    damaged or holds more than data.
    """
    if to.exists():
        raise UserError(f"'{to}' exists already; give a new directory")
    if damaged := manifest.damage(checkpoint):
        raise UserError(f"checkpoint file {damaged}; export an older checkpoint by its path")
    trust.refuse_code(checkpoint)
    aside = to.with_name(f".{to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        make_folder(to.parent)
        shutil.copytree(checkpoint / SIDE_FILES, aside)
        config = json.loads((aside / "config.json").read_text())
        dtype = getattr(torch, config.get("dtype") or "float32")
        _write_shards(_state_dict(checkpoint, config), aside, dtype, max_shard_size)
        aside.rename(to)
    except OSError as error:
        raise unwritable(to, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return to


def _state_dict(checkpoint: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Name to tensor, or to DeepSpeed's lazy stand-in for one that lies in several shards."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), trust.restricted():
        if list((checkpoint / "zero").glob("*_optim_states.pt")):
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), "zero", lazy_mode=True) or {}
        else:  # stage 0 keeps the module whole
            file = checkpoint / "zero" / "mp_rank_00_model_states.pt"
            state = trust.load(file)["module"]
    tied = config.get("tie_word_embeddings")
    return {
        name.removeprefix(PREFIX): value
        for name, value in state.items()
        if not (tied and name == f"{PREFIX}lm_head.weight")
    }


def _write_shards(state: dict[str, Any], folder: Path, dtype: torch.dtype, max_shard_size: str) -> None:
    sizes = {name: torch.empty(value.shape, dtype=dtype, device="meta") for name, value in state.items()}
    split = split_torch_state_dict_into_shards(
        sizes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: state[name].contiguous().to(dtype).clone() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
