"""The real small model: prepared once, found afterwards, and loadable."""

from pathlib import Path
from typing import Any

import pytest

from altpo_ds import smollm2


def test_a_prepared_model_is_found_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALTPO_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "download_gguf", lambda into: pytest.fail("downloads again"))
    (tmp_path / smollm2.NAME).mkdir()
    assert smollm2.main() == 0
    assert capsys.readouterr().out == f"{tmp_path / smollm2.NAME}\n"


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, out: Path) -> None:
        out.mkdir()
        raise RuntimeError("disk full")

    monkeypatch.setenv("ALTPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "download_gguf", lambda into: into / "model.gguf")
    monkeypatch.setattr(smollm2, "convert", convert)
    with pytest.raises(RuntimeError, match="disk full"):
        smollm2.prepare()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_the_prepared_model_answers_and_has_tied_weights() -> None:
    model_dir = smollm2.cache_folder() / smollm2.NAME
    if not model_dir.exists():
        pytest.skip("SmolLM2 is not prepared; run `make smollm2`")
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = LlamaForCausalLM.from_pretrained(model_dir)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
    answer = tokenizer.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."
