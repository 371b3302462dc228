"""Questions and answers to token ids through the model's chat template, applied once."""

from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

BORDERS = 16  # tokens that a template may gain where a text meets it
NORMALIZED = 33  # bytes of the longest normal form (NFKC) of one character


class ChatTokenizer:
    """Prompt and response token ids of one tokenizer.

    A response ends with its end-of-turn token, and what the template writes after that (a newline in the
    ChatML family) is no part of it. Without a chat template: `Question: q`, newline, `Answer: `, the answer, EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._special = set(tokenizer.all_special_ids)

    def prompt(self, question: str) -> list[int]:
        """Ids up to where the response begins."""
        if not self.tokenizer.chat_template:
            return self.plain(f"Question: {question}\nAnswer: ")
        return self._encode(self._render(question))

    def response(self, question: str | None, answer: str) -> list[int]:
        """Ids of the answer after `prompt(question)`, the end-of-turn token included."""
        if question is None or not self.tokenizer.chat_template:
            return [*self._encode(answer), self._eos()]
        prompt, whole = self._render(question), self._render(question, answer)
        ids, prompt_ids = self._encode(whole), self._encode(prompt)
        if ids[: len(prompt_ids)] == prompt_ids:
            response = ids[len(prompt_ids) :]
        else:  # a token crosses the border: the response is tokenized by itself
            response = self._encode(whole[len(prompt) :] if whole.startswith(prompt) else answer)
        return self._end_of_turn(response)

    def at_most(self, question: str | None, answer: str) -> int:
        """Tokens that prompt and response hardly exceed, without tokenizing them: at most one for a byte of the text,
        and BORDERS for the template, an allowance and no proof.
        """
        return self._template_tokens + BORDERS + sum(_bytes_at_most(text) for text in (question or "", answer))

    @cached_property
    def _template_tokens(self) -> int:
        return len(self.prompt("a")) + len(self.response("a", "a"))

    def plain(self, text: str) -> list[int]:
        """Ids of a text without any template, to be continued: with BOS where the tokenizer has one, without EOS."""
        return self._strip_eos(self._encode(text, bos=True))

    def document(self, text: str) -> tuple[list[int], list[int]]:
        """A plain document as prompt (BOS, or else its first token) and response (the rest and EOS)."""
        ids = self.plain(text)
        return ids[:1], [*ids[1:], self._eos()]

    def _end_of_turn(self, response: list[int]) -> list[int]:
        while response and response[-1] not in self._special:
            if str(self.tokenizer.decode(response[-1:])).strip():
                break
            response = response[:-1]
        if not response or response[-1] not in self._special:
            response = [*response, self._eos()]
        return response

    def _render(self, question: str, answer: str | None = None) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        assert isinstance(text, str)
        return text

    def _encode(self, text: str, bos: bool = False) -> list[int]:
        # A chat template writes its own BOS; a second one would be a different prompt.
        return self.tokenizer(text, add_special_tokens=bos)["input_ids"]  # pyright: ignore[reportReturnType]

    def _strip_eos(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id and len(ids) > 1 else ids

    def _eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int), "the tokenizer has no end-of-sequence token"
        return eos


def _bytes_at_most(text: str) -> int:
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return len(text) + (NORMALIZED - 1) * beyond_ascii
