"""Loads tokenizers and models; under ZeRO-3 each rank keeps its shard of the parameters from the start."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils.import_utils import is_liger_kernel_available

from altpo_ds.config.errors import UserError
from altpo_ds.config.hub import hub_endpoint, hub_reachable
from altpo_ds.config.require import check_model_path
from altpo_ds.config.schema import ModelConfig
from altpo_ds.engine.distributed import together
from altpo_ds.engine.scorer import SequenceScorer

WEIGHTS = ("*.safetensors", "*.bin")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPUs and float32 on CPUs."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def load_tokenizer(path: str, trusted: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model; code that comes with it runs only where `trusted` names the path.

    UserError where there is none, or where it has no end-of-sequence token.
    """
    check_model_path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **access(path, trusted))
    except Exception as error:  # the loaders raise many types, and Rust's errors are bare Exceptions
        raise unloadable("the tokenizer of", path, error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of '{path}' has no eos_token; set it in tokenizer_config.json")
    return tokenizer


def load_scorer(path: str, model: ModelConfig, deepspeed: dict[str, Any], device: torch.device) -> SequenceScorer:
    """A model from `path` as a scorer, with parameters sharded over the ranks where the DeepSpeed dict says stage 3."""
    dtype = resolve_dtype(model.dtype, device)
    with together():
        check_model_path(path)
        if model.liger:
            _check_liger(device)
        try:
            _check_index(Path(path) / "model.safetensors.index.json")
            loaded = _load(path, dtype, deepspeed, model.trust_remote_code)
        except Exception as error:  # as above
            raise unloadable("the model", path, error) from error
    if model.gradient_checkpointing:
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    if model.liger:
        # Not its losses: the head projects response tokens alone.
        apply_liger_kernel(loaded, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return SequenceScorer(loaded, model.attention)


def _check_liger(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError("model.liger: Liger's kernels run on GPUs, and there is none; leave it out")
    if not is_liger_kernel_available():
        raise UserError("model.liger: its package is not installed; pip install 'altpo_ds[liger]', or leave it out")


def _check_index(file: Path) -> None:
    """ValueError for an index of weight files that names one outside of its folder."""
    if file.is_file():
        for name in sorted(set(json.loads(file.read_bytes())["weight_map"].values())):
            if Path(name).name != name:
                raise ValueError(f"{file.name} names {name!r}, which is no file of its folder")


def access(path: str, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """How `from_pretrained` may come by a model: whether its own code may run, and whether the hub is asked."""
    return {
        "trust_remote_code": path in trusted,
        "local_files_only": not Path(path).is_dir() and not hub_reachable(),
    }


def unloadable(what: str, path: str, error: Exception) -> UserError:
    """Why a model or tokenizer cannot be loaded, and what to do about it."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"{what} '{path}' needs code that comes with it (auto_map), which is not run unasked; "
            "read that code, then name the path in model.trust_remote_code"
        )
    if access(path)["local_files_only"]:
        return UserError(
            f"cannot load {what} '{path}': {hub_endpoint()} cannot be reached, and its cache does not hold it; "
            "give a directory, or see to the network and HF_HUB_OFFLINE"
        )
    return UserError(f"cannot load {what} '{path}': {' '.join(str(error).split())[:300]}")


def _load(path: str, dtype: torch.dtype, deepspeed: dict[str, Any], trusted: Sequence[str]) -> PreTrainedModel:
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    sharded = deepspeed.get("zero_optimization", {}).get("stage") == 3
    # While this object lives, from_pretrained builds the model under deepspeed.zero.Init.
    keep = HfDeepSpeedConfig(deepspeed) if sharded else None
    result: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, output_loading_info=True, **access(path, trusted)
    )
    del keep
    loaded, found = result
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"its files lack {len(missing)} weights, the first of them {missing[0]}")
    return loaded


def model_hash(path: str) -> str:
    """Fingerprint of a model: sha256 over its configuration and weight files; a hub model's commit stands for them."""
    folder = Path(path)
    digest = hashlib.sha256()
    if not folder.is_dir():
        from transformers.utils.hub import cached_file

        resolved = cached_file(path, "config.json", local_files_only=access(path)["local_files_only"])
        digest.update(os.path.realpath(Path(str(resolved)).parent).encode())
        return digest.hexdigest()
    files = [folder / "config.json", *(file for pattern in WEIGHTS for file in sorted(folder.glob(pattern)))]
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
