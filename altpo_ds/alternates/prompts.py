"""Prompts that ask for an alternate answer: Jinja files, one per style, which say themselves how they are used.

A template sees `question` and `answer` and may set three names: `form` ("chat", the default: a user message for
the model's chat template; "text": the whole prompt), `stop` (texts at which an answer ends), and `system` (a
system message, chat only).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from altpo_ds.config.errors import UserError
from altpo_ds.data.chat import ChatTokenizer

FOLDER = Path(__file__).with_name("prompts")


@dataclass(frozen=True)
class Rendered:
    """A prompt's text for one question."""

    text: str
    form: str
    stop: tuple[str, ...]
    system: str | None


@dataclass(frozen=True)
class Prompt:
    """A template, by its name or path."""

    name: str
    source: str
    template: jinja2.Template

    def render(self, question: str, answer: str) -> Rendered:
        """UserError where the template fails or sets a name to something it cannot be."""
        try:
            module: Any = self.template.make_module({"question": question.strip(), "answer": answer.strip()})
        except jinja2.TemplateError as error:
            raise UserError(f"alternates.prompt = {self.name}: {error}") from error
        form, stop = getattr(module, "form", "chat"), getattr(module, "stop", [])
        if form not in ("chat", "text"):
            raise UserError(f'alternates.prompt = {self.name}: form is {form!r}; set it to "chat" or "text"')
        if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
            raise UserError(f"alternates.prompt = {self.name}: stop is {stop!r}; a list of texts is expected")
        # A text prompt may end in a newline on purpose; a chat message never does.
        text = str(module).strip() if form == "chat" else str(module)
        return Rendered(text, form, tuple(stop), getattr(module, "system", None))

    @cached_property
    def own_text(self) -> str:
        """What the template says around question and answer."""
        return self.render("", "").text


def load_prompt(name: str) -> Prompt:
    """A template of this package by name, or a file of the user's by path. UserError where there is none."""
    file = Path(name) if name.endswith(".jinja") or "/" in name else FOLDER / f"{name}.jinja"
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.jinja")))
        raise UserError(f"alternates.prompt = {name}: cannot be read; known: {known}, or a path ({error})") from None
    try:
        template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"alternates.prompt = {name}: line {error.lineno}: {error.message}") from None
    prompt = Prompt(name, source, template)
    text = prompt.render("a question", "an answer").text
    if "a question" not in text or "an answer" not in text:
        raise UserError(f"alternates.prompt = {name}: must show both {{{{ question }}}} and {{{{ answer }}}}")
    return prompt


def prompt_ids(rendered: Rendered, chat: ChatTokenizer) -> list[int]:
    """Token ids of a prompt, with one BOS and no EOS. UserError for a chat prompt without a chat template."""
    if rendered.form == "chat":
        if not chat.tokenizer.chat_template:
            raise UserError("alternates.prompt: the model has no chat template; choose few_shot or zero_shot")
        return ChatTokenizer(chat.tokenizer, rendered.system or chat.system_prompt).prompt(rendered.text)
    ids: Any = chat.tokenizer(rendered.text)["input_ids"]
    return ids[:-1] if len(ids) > 1 and ids[-1] == chat.tokenizer.eos_token_id else ids
