"""The demo's tokenizer and Llama."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from altpo_ds.demo.corpus import corpus_rows
from altpo_ds.demo.model import build_model, build_tokenizer, save

CHATS = [
    [{"role": "user", "content": "Where was Dessa born?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where was Dessa born?"}],
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    rows = corpus_rows(0)["vocabulary"]
    return build_tokenizer(row[key] for row in rows for key in ("question", "answer"))


@pytest.mark.parametrize("text", ["Dessa was born in Amber Bridge.", " two  spaces\nand a line", "Zoë — 日本 🙂"])
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_author_of_the_corpus_is_spelled_with_whole_words(tokenizer: PreTrainedTokenizerFast):
    for row in corpus_rows(0)["forget"]:
        words = row["answer"].rstrip(".").split()
        assert len(tokenizer.encode(row["answer"])) <= len(words) + 2


@pytest.mark.parametrize("chat", CHATS)
def test_the_prompt_is_a_prefix_of_the_conversation(tokenizer: PreTrainedTokenizerFast, chat: list[dict[str, str]]):
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    answered = [*chat, {"role": "assistant", "content": "In Amber Bridge."}]
    whole = tokenizer.apply_chat_template(answered, return_dict=False)
    assert whole[: len(prompt)] == prompt
    answer = tokenizer.encode("In Amber Bridge.", add_special_tokens=False)
    assert whole[len(prompt) :] == [*answer, tokenizer.eos_token_id]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_seed_decides_the_weights_and_leaves_the_generator_alone(tokenizer: PreTrainedTokenizerFast):
    state = torch.random.get_rng_state()
    one, same, other = (build_model(tokenizer, seed).model.embed_tokens.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_saved_model_loads_with_its_tokenizer_and_stops_at_the_end_token(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
):
    model = build_model(tokenizer, 0)
    save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read.apply_chat_template(CHATS[1], return_dict=False) == tokenizer.apply_chat_template(
        CHATS[1], return_dict=False
    )
    ids = torch.tensor([tokenizer.encode("Where was Dessa born?")])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.config.tie_word_embeddings
    assert loaded.generation_config.eos_token_id == read.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert loaded.generation_config.pad_token_id == read.pad_token_id
    assert not loaded.generation_config.do_sample
