"""Loads tokenizers and models; under ZeRO-3 each rank keeps its shard of the parameters from the start."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from altpo_ds.config.errors import UserError
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


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. UserError where there is none, or where it has no end-of-sequence token."""
    check_model_path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the loaders raise many types, and Rust's errors are bare Exceptions
        raise UserError(f"cannot load the tokenizer of '{path}': {_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of '{path}' has no eos_token; set it in tokenizer_config.json")
    return tokenizer


def load_scorer(path: str, model: ModelConfig, deepspeed: dict[str, Any], device: torch.device) -> SequenceScorer:
    """A model from `path` as a scorer, with parameters sharded over the ranks where the DeepSpeed dict says stage 3."""
    dtype = resolve_dtype(model.dtype, device)
    with together():
        check_model_path(path)
        try:
            loaded = _load(path, dtype, deepspeed)
        except Exception as error:  # as above
            raise UserError(f"cannot load the model '{path}': {_line(error)}") from error
    if model.gradient_checkpointing:
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    return SequenceScorer(loaded, model.attention)


def _load(path: str, dtype: torch.dtype, deepspeed: dict[str, Any]) -> PreTrainedModel:
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    sharded = deepspeed.get("zero_optimization", {}).get("stage") == 3
    # While this object lives, from_pretrained builds the model under deepspeed.zero.Init.
    keep = HfDeepSpeedConfig(deepspeed) if sharded else None
    result: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, trust_remote_code=False, output_loading_info=True
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

        resolved = cached_file(path, "config.json")
        digest.update(os.path.realpath(Path(str(resolved)).parent).encode())
        return digest.hexdigest()
    files = [folder / "config.json", *(file for pattern in WEIGHTS for file in sorted(folder.glob(pattern)))]
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
