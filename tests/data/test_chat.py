"""Prompt and response are the template's own tokens, cut where the response begins and ends."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.demo.model import END, build_tokenizer
from tests.conftest import Tiny

SMOLLM2 = Path.home() / ".cache" / "altpo_ds" / "smollm2-135m-instruct"
QUESTION, ANSWER = "Where was author number 3 born?", "Author number 3 was born in Elmstead."


@pytest.fixture(params=["tiny", "smollm2"])
def tokenizer(request: pytest.FixtureRequest, tiny: Tiny) -> Any:
    if request.param == "tiny":
        return AutoTokenizer.from_pretrained(tiny.model)
    if not SMOLLM2.is_dir():
        pytest.skip("SmolLM2 is not in the cache folder (make smollm2)")
    return AutoTokenizer.from_pretrained(SMOLLM2)


def own_ids(tokenizer: Any, messages: list[dict[str, str]], prompt: bool = False) -> list[int]:
    """What the tokenizer itself makes of a conversation."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)["input_ids"]


def conversation(system: str | None, answer: str | None = None) -> list[dict[str, str]]:
    parts = {"system": system, "user": QUESTION, "assistant": answer}
    return [{"role": role, "content": text} for role, text in parts.items() if text is not None]


@pytest.mark.parametrize("system", [None, "Answer briefly."])
@pytest.mark.parametrize("answer", [ANSWER, "42", "Two\nlines.\n\nAnd ünï\u4e2d\U0001f600.", "ends in spaces  "])
def test_ids_are_those_of_the_whole_conversation(tokenizer: Any, system: str | None, answer: str) -> None:
    chat = ChatTokenizer(tokenizer, system)
    prompt, response = chat.prompt(QUESTION), chat.response(QUESTION, answer)
    whole = own_ids(tokenizer, conversation(system, answer))
    assert prompt == own_ids(tokenizer, conversation(system), prompt=True)
    assert [*prompt, *response] == whole[: len(prompt) + len(response)]
    assert response[-1] == tokenizer.eos_token_id
    assert not str(tokenizer.decode(whole[len(prompt) + len(response) :])).strip()
    assert tokenizer.decode(response[:-1]).strip() == answer.strip()
    assert response.count(tokenizer.eos_token_id) == 1
    assert (system is not None) == (system is not None and system in tokenizer.decode(prompt))


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_any_answer_ends_in_one_end_of_turn(tiny_chat: ChatTokenizer, answer: str) -> None:
    eos = tiny_chat.tokenizer.eos_token_id
    response = tiny_chat.response(QUESTION, answer)
    assert response[-1] == eos
    assert tiny_chat.tokenizer.decode(response[:-1]) == answer
    assert tiny_chat.response(QUESTION, answer) == response
    assert len(tiny_chat.prompt(answer)) + len(tiny_chat.response(answer, answer)) <= tiny_chat.at_most(answer, answer)


@pytest.fixture(scope="module")
def tiny_chat(tiny: Tiny) -> ChatTokenizer:
    return ChatTokenizer(AutoTokenizer.from_pretrained(tiny.model))


def with_bos(template: str | None) -> Any:
    """A tokenizer that writes BOS and EOS of its own around every text, as Llama's and T5's do."""
    tokenizer: Any = build_tokenizer([QUESTION, ANSWER], vocab_size=300)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos, eos = tokenizer.convert_tokens_to_ids(["<s>", END])
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"<s> $A {END}", special_tokens=[("<s>", bos), (END, eos)]
    )
    tokenizer.chat_template = template
    return tokenizer


def test_exactly_one_bos() -> None:
    turns = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    tokenizer = with_bos("{{ bos_token }}" + turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    bare = with_bos(None)
    for chat in (ChatTokenizer(tokenizer), ChatTokenizer(bare)):
        prompt, response = chat.prompt(QUESTION), chat.response(QUESTION, ANSWER)
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        assert prompt[0] == bos
        assert [*prompt, *response].count(bos) == 1
        assert response[-1] == eos  # the newline after the end of turn is no part of it
        assert response.count(eos) == 1
        prompt, response = chat.document("Some words of a page.")
        assert prompt == [bos]
        assert bos not in response
        assert response[-1] == eos
        assert response.count(eos) == 1


def test_without_a_template_question_and_answer_are_labelled(tiny: Tiny) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    tokenizer.chat_template = None
    chat = ChatTokenizer(tokenizer)
    assert tokenizer.decode(chat.prompt(QUESTION)) == f"Question: {QUESTION}\nAnswer: "
    response = chat.response(QUESTION, ANSWER)
    assert tokenizer.decode(response[:-1]) == ANSWER
    assert response[-1] == tokenizer.eos_token_id


def test_a_template_without_an_end_of_turn_gets_eos(tiny: Tiny) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    response = ChatTokenizer(tokenizer).response(QUESTION, ANSWER)
    assert response[-1] == tokenizer.eos_token_id
    assert ANSWER in tokenizer.decode(response)


def test_a_document_begins_with_its_first_token_where_there_is_no_bos(tiny_chat: ChatTokenizer) -> None:
    text = "Some words of a page."
    prompt, response = tiny_chat.document(text)
    assert len(prompt) == 1
    assert tiny_chat.tokenizer.decode([*prompt, *response[:-1]]) == text
    assert response[-1] == tiny_chat.tokenizer.eos_token_id
