"""Prompt files: what they render, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from altpo_ds.alternates.prompts import FOLDER, load_prompt, prompt_ids
from altpo_ds.config.errors import UserError
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine.models import load_tokenizer
from tests.conftest import Tiny

NAMES = sorted(file.stem for file in FOLDER.glob("*.jinja"))


def test_there_is_one_per_family_style() -> None:
    assert NAMES == ["chat", "few_shot", "llama2", "llama3", "zero_shot"]


@pytest.mark.parametrize("name", NAMES)
def test_question_and_answer_stand_in_the_prompt_as_they_are(name: str) -> None:
    rendered = load_prompt(name).render("  Who wrote <it> & why?\n", "“Zoë” {{ did }}.")
    assert "Who wrote <it> & why?" in rendered.text
    assert "“Zoë” {{ did }}." in rendered.text
    assert "Question:" in rendered.stop
    assert not rendered.text.startswith(("\n", "{"))


def test_the_chat_message() -> None:
    rendered = load_prompt("chat").render("Who?", "Zoë.")
    assert (rendered.form, rendered.text) == (
        "chat",
        "Question: Who?\nAnswer: Zoë.\n"
        "Now write another version of the answer with alternate plausible facts that change its details.",
    )


def test_text_prompts_end_where_the_answer_begins() -> None:
    assert load_prompt("llama2").render("Who?", "Zoë.").text.endswith("[/INST] Alternate answer:")
    assert load_prompt("llama3").render("Who?", "Zoë.").text.endswith("assistant<|end_header_id|>\n\n")
    assert load_prompt("few_shot").render("Who?", "Zoë.").text.count("Alternate answer:") == 4
    assert load_prompt("zero_shot").render("Who?", "Zoë.").text.endswith("Answer: Zoë.\nAlternate answer:")


def test_a_file_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text('{% set system = "Be brief." %}{% set stop = ["END"] %}{{ question }} / {{ answer }}')
    rendered = load_prompt(str(file)).render("Q", "A")
    assert (rendered.text, rendered.form, rendered.stop, rendered.system) == ("Q / A", "chat", ("END",), "Be brief.")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ question }}", "must show both"),
        ("{{ question }} {{ answr }}", "'answr' is undefined"),
        ("{{ question }} {{ answer }", "line 1:"),
        ('{% set form = "html" %}{{ question }}{{ answer }}', "form is 'html'; set it to"),
        ('{% set stop = "END" %}{{ question }}{{ answer }}', "a list of texts is expected"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, source: str | bytes, expected: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    with pytest.raises(UserError) as error:
        load_prompt(str(file))
    assert expected in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="known: chat, few_shot, llama2, llama3, zero_shot"):
        load_prompt("chatt")


def test_ids_of_a_chat_prompt_are_those_of_the_chat_template(tiny: Tiny) -> None:
    chat = ChatTokenizer(load_tokenizer(str(tiny.model)))
    rendered = load_prompt("chat").render("Who?", "It was I.")
    ids = prompt_ids(rendered, chat)
    assert ids == chat.prompt(rendered.text)
    template: Any = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template; choose few_shot or zero_shot"):
        prompt_ids(rendered, chat)
    chat.tokenizer.chat_template = template


def test_a_text_prompt_gets_the_tokenizers_bos_and_no_eos(tiny: Tiny) -> None:
    chat = ChatTokenizer(load_tokenizer(str(tiny.model)))
    rendered = load_prompt("zero_shot").render("Who?", "It was I.")
    ids = prompt_ids(rendered, chat)
    assert ids[-1] != chat.tokenizer.eos_token_id
    assert sum(token == chat.tokenizer.bos_token_id for token in ids) <= 1
    assert str(chat.tokenizer.decode(ids, skip_special_tokens=True)).endswith("Alternate answer:")
