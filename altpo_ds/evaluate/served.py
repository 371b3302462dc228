"""Answers of an exported model from a server or from vLLM, by the backends that write alternates."""

import contextlib
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from altpo_ds.alternates.backend import Backend, open_backend
from altpo_ds.alternates.prompts import Rendered
from altpo_ds.alternates.question import Request, Sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine.decoding import Sampling
from altpo_ds.engine.distributed import World


class Served:
    """Takes and gives token ids, as the engine's own generation does."""

    def __init__(self, backend: Backend, tokenizer: PreTrainedTokenizerBase) -> None:
        self.backend, self.tokenizer = backend, tokenizer

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt, one for each of its seeds; greedy at temperature 0."""
        limits = [sampling.limit(prompt) for prompt in prompts]
        requests = [
            Request(
                number,
                0,
                Rendered(prompt_text(self.tokenizer, prompt), "text", sampling.stop, None),
                tuple(of_prompt) if sampling.temperature else (None,) * len(of_prompt),
            )
            for number, (prompt, of_prompt) in enumerate(zip(prompts, seeds, strict=True))
        ]
        found: dict[int, list[Sample]] = {}
        self.backend.settings = self.backend.settings.model_copy(
            update={
                "max_new_tokens": max(limits, default=1),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
            }
        )
        self.backend.sample(requests, (), lambda answered: found.update({r.number: drawn for r, drawn in answered}))
        return [[self._ids(drawn, limit) for drawn in found[number]] for number, limit in enumerate(limits)]

    def _ids(self, drawn: Sample, limit: int) -> list[int]:
        """The text's tokens up to a prompt's own limit; ended by the model, they have an end-of-sequence token."""
        ids = list(self.tokenizer(drawn.text, add_special_tokens=False)["input_ids"])  # pyright: ignore[reportArgumentType]
        ended = [self.tokenizer.eos_token_id] if drawn.finished else []
        return [*ids, *ended][:limit]


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """The text that a server's tokenizer turns into exactly these ids. UserError where there is none."""
    for ids in (prompt, prompt[1:]):  # a BOS in front, the server writes itself
        text = str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
        if tokenizer(text)["input_ids"] == list(prompt):
            return text
    start = str(tokenizer.decode(list(prompt)))[:60]
    raise UserError(
        f"evaluate.backend: the prompt '{start}...' does not survive as text, in which servers take it; "
        "set --evaluate.backend=transformers"
    )


@contextlib.contextmanager
def open_served(config: RunConfig, path: str, chat: ChatTokenizer, world: World) -> Iterator[Served | None]:
    """What answers for the model at `path`; None: the engine itself, on all ranks."""
    evaluate = config.evaluate
    if evaluate.backend == "transformers":
        yield None
        return
    chosen = {"backend": evaluate.backend, "server": evaluate.server, "vllm": evaluate.vllm}
    alternates = config.alternates.model_copy(update=chosen)
    model = config.model.model_copy(update={"path": path})
    derived = config.model_copy(update={"model": model, "alternates": alternates})
    with open_backend(derived, world, "evaluate") as backend:
        yield Served(backend, chat.tokenizer)
