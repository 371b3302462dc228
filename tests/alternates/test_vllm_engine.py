"""What vLLM is asked for; a stand-in with the same interface answers, for it needs a GPU."""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch

from altpo_ds.alternates.prompts import Rendered, prompt_ids
from altpo_ds.alternates.question import Request, Sample
from altpo_ds.alternates.vllm_engine import VllmBackend
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.engine.distributed import World
from tests.conftest import Tiny

ALONE = World(0, 1, 0, torch.device("cpu"))
PROMPT = Rendered("Where?", "chat", ("Q:",), None)


@dataclass
class Output:
    text: str
    token_ids: list[int]
    finish_reason: str


@dataclass
class Result:
    outputs: list[Output]


class StandIn(ModuleType):
    """The names that the backend imports."""

    def __init__(self) -> None:
        super().__init__("vllm")
        self.created: dict[str, Any] = {}
        self.asked: list[tuple[Any, Any]] = []
        stand_in = self

        class Engine:
            def __init__(self, model: str, **options: Any) -> None:
                stand_in.created = {"model": model} | options

            def generate(self, prompts: list[Any], options: list[Any], use_tqdm: bool) -> list[Result]:
                stand_in.asked += zip(prompts, options, strict=True)
                return [Result([self.answer(each)]) for each in options]

            @staticmethod
            def answer(options: dict[str, Any]) -> Output:
                if options["temperature"] == 0:
                    return Output("Rating: 8", [1, 2], "stop")
                odd = options["seed"] % 2
                return Output(f" Answer {options['seed']} Q: x", [1, 2, 3], "length" if odd else "stop")

        self.LLM, self.SamplingParams, self.TokensPrompt = Engine, dict, dict


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    return stand_in


def config(tiny: Tiny) -> RunConfig:
    alternates = {"backend": "vllm", "max_new_tokens": 30, "top_p": 0.8, "vllm": {"tensor_parallel_size": 2}}
    return RunConfig.model_validate(
        {"run_dir": "x", "seed": 5, "model": {"path": str(tiny.model)}, "alternates": alternates}
    )


def test_samples_share_their_prompt_and_have_their_own_seeds(tiny: Tiny, vllm: StandIn) -> None:
    backend = VllmBackend(config(tiny), ALONE)
    assert vllm.created == {
        "model": str(tiny.model),
        "dtype": "auto",
        "enable_prefix_caching": True,
        "seed": 5,
        "tensor_parallel_size": 2,
    }
    found: dict[int, list[Sample]] = {}
    requests = [Request(0, 0, PROMPT, (10, 11)), Request(1, 3, PROMPT, (12,)), Request(2, 0, PROMPT, (14, 15))]
    backend.sample(requests, {1}, lambda answered: found.update({request.number: s for request, s in answered}))
    assert found == {
        0: [Sample("Answer 10", 3, True), Sample("Answer 11", 3, True)],
        2: [Sample("Answer 14", 3, True), Sample("Answer 15", 3, True)],
    }
    ids = prompt_ids(PROMPT, backend.chat)
    common = {"max_tokens": 30, "stop": ["Q:"], "temperature": 1.0, "top_p": 0.8}
    assert vllm.asked == [({"prompt_token_ids": ids}, common | {"seed": seed}) for seed in (10, 11, 14, 15)]


def test_ratings_are_greedy(tiny: Tiny, vllm: StandIn) -> None:
    assert VllmBackend(config(tiny), ALONE).rate([PROMPT]) == [8.0]
    assert vllm.asked[0][1]["temperature"] == 0


def test_it_runs_in_one_process_and_must_be_installed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"not installed; pip install 'altpo_ds\[vllm\]'"):
        VllmBackend(config(tiny), ALONE)
    with pytest.raises(UserError, match="runs in one process"):
        VllmBackend(config(tiny), World(0, 2, 0, torch.device("cpu")))
