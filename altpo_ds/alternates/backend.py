"""What samples answers: the interface of the backends, and the choice among them."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from altpo_ds.alternates.prompts import Rendered
from altpo_ds.alternates.question import Request, Sample
from altpo_ds.config.schema import AlternatesConfig, RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine.distributed import World

Answered = list[tuple[Request, list[Sample]]]
Keep = Callable[[Answered], None]


class Backend(Protocol):
    """All ranks call each method together, each with questions of its own, of any number."""

    settings: AlternatesConfig  # how the next samples are drawn

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        """Samples what `requests` ask for and hands it to `keep` in parts. Questions in `done` have theirs already;
        they are listed all the same, so that the parts do not depend on where an earlier start stopped.
        """
        ...

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        """The model's rating for each of the judge's prompts, 1 (worst) to 9; 0 where it gave none."""
        ...

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]] | None:
        """Mean log-probability per token of each alternate as the answer to its question; None where unknown."""
        ...


@contextlib.contextmanager
def open_backend(config: RunConfig, world: World, section: str = "alternates") -> Iterator[Backend]:
    """The backend that `config.alternates` names, whose keys the user knows under `section`. UserError where it
    cannot serve this run.
    """
    # Each one imports what the others do without: an engine, an HTTP client, vLLM.
    if config.alternates.backend == "openai":
        from altpo_ds.alternates.server import ServerBackend

        yield ServerBackend(config.alternates, section)
    elif config.alternates.backend == "vllm":
        from altpo_ds.alternates.vllm_engine import VllmBackend

        yield VllmBackend(config, world, section)
    else:
        from altpo_ds.alternates.local import local_backend

        with local_backend(config, world) as backend:
            yield backend


def load_chat(config: RunConfig) -> ChatTokenizer:
    from altpo_ds.engine.models import load_tokenizer

    return ChatTokenizer(load_tokenizer(config.model.path, config.model.trust_remote_code), config.data.system_prompt)
