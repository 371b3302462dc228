"""A backend that samples without a model."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from altpo_ds.alternates.backend import Keep
from altpo_ds.alternates.prompts import Prompt, Rendered, load_prompt
from altpo_ds.alternates.question import Request, Sample
from altpo_ds.config.schema import AlternatesConfig, RunConfig
from tests.conftest import write_jsonl

TOWNS = ["Norwick", "Elmstead", "Port Avel", "Sundby", "Marlow", "Quill Bay", "Ostrand", "Harrow End"]


@pytest.fixture
def prompt() -> Prompt:
    return load_prompt("chat")


class StubBackend:
    """A sample is a pure function of its seed; some are bad. Parts of two questions; may break after some parts."""

    settings = AlternatesConfig()

    def __init__(self, breaks_after: int | None = None) -> None:
        self.parts, self.breaks_after = 0, breaks_after
        self.asked: list[tuple[int, int]] = []  # question and first sample number of each request answered

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        for i in range(0, len(requests), 2):
            part = [request for request in requests[i : i + 2] if request.number not in done]
            if not part:
                continue
            if self.parts == self.breaks_after:
                raise KeyboardInterrupt
            self.parts += 1
            self.asked += [(request.number, request.first) for request in part]
            keep([(request, [self.draw(seed) for seed in request.seeds]) for request in part])

    @staticmethod
    def draw(seed: int | None) -> Sample:
        rng = Random(seed)
        town = rng.choice(TOWNS)
        texts = [f"The author was born in {town}.", f"They were born in {town}, by the sea.", "I'm sorry, no.", ""]
        return Sample(rng.choice(texts), rng.randint(3, 9), rng.random() < 0.9)

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        """The later the town in the list, the better."""
        return [max(i for i, town in enumerate(TOWNS, 1) if town in prompt.text) + 0.0 for prompt in prompts]

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [[-len(text) / 10 for text in texts] for _, texts in answers]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunConfig]:
    """A run over `rows` questions; further arguments go to its alternates section."""

    def build(rows: int = 20, **alternates: Any) -> RunConfig:
        file = tmp_path / f"forget-{rows}.jsonl"
        questions = ((f"Where was author {i} born?", f"Author {i} was born in Zell.") for i in range(rows))
        write_jsonl(file, ({"question": question, "answer": answer} for question, answer in questions))
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        return RunConfig.model_validate(
            {
                "run_dir": str(tmp_path / "run"),
                "model": {"path": str(model)},
                "data": {"forget": {"path": str(file)}},
                "alternates": {"count": 3, "batch_size": 2} | alternates,
            }
        )

    return build
