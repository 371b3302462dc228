"""Answers from a real server and from vLLM's stand-in: the tokens that the engine itself would give."""

import sys

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from altpo_ds.alternates.server import ServerBackend
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesConfig, RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine.decoding import Decoder, Sampling
from altpo_ds.engine.distributed import World
from altpo_ds.engine.generation import decode
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.evaluate.served import Served, open_served, prompt_text
from tests.alternates.test_vllm_engine import StandIn
from tests.conftest import Tiny

ALONE = World(0, 1, 0, torch.device("cpu"))
QUESTIONS = [f"Where was author number {i} born?" for i in (1, 2, 17)]


@pytest.fixture
def chat(tiny: Tiny) -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer(str(tiny.model)))


def test_a_prompt_survives_as_text(chat: ChatTokenizer) -> None:
    tokenizer = chat.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    prompts = [chat.prompt(question) for question in QUESTIONS]
    assert [tokenizer(prompt_text(tokenizer, prompt))["input_ids"] for prompt in prompts] == prompts
    # a tokenizer that writes a BOS by itself gets the text without it
    bos = tokenizer.all_special_ids[0]
    special = [(str(tokenizer.convert_ids_to_tokens(bos)), bos)]
    post = TemplateProcessing(single=f"{special[0][0]} $A", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = post  # pyright: ignore[reportAttributeAccessIssue]
    for prompt in prompts:
        assert tokenizer(prompt_text(tokenizer, [bos, *prompt]))["input_ids"] == [bos, *prompt]
    with pytest.raises(UserError, match=r"does not survive as text.*--evaluate\.backend=transformers"):
        prompt_text(tokenizer, prompts[0])  # here the BOS cannot be left out


@pytest.mark.slow
def test_a_real_server_answers_as_the_engine(tiny: Tiny, chat: ChatTokenizer, serve: tuple[str, str]) -> None:
    url, _ = serve
    server = {"url": url, "model": str(tiny.model), "timeout": 300}
    backend = ServerBackend(AlternatesConfig.model_validate({"backend": "openai", "server": server}), "evaluate")
    prompts = [chat.prompt(question) for question in QUESTIONS]
    sampling = Sampling(max_length=len(prompts[0]) + 12)
    model = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32).eval()
    own = Decoder(model, chat.tokenizer, ALONE.device)(prompts, sampling, [[0]] * len(prompts))
    served = Served(backend, chat.tokenizer).generate(prompts, sampling, [[0]] * len(prompts))
    texts = [[decode(chat.tokenizer, ids[0]) for ids in found] for found in (own, served)]
    assert texts[0] == texts[1]
    assert all(len(ids[0]) <= sampling.limit(prompt) for ids, prompt in zip(served, prompts, strict=True))


def test_vllm_serves_the_model_under_evaluation(
    tiny: Tiny, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = StandIn()
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    evaluate = {"backend": "vllm", "vllm": {"tensor_parallel_size": 2}}
    config = RunConfig.model_validate({"run_dir": "x", "model": {"path": "another"}, "evaluate": evaluate})
    prompt = chat.prompt(QUESTIONS[0])
    with open_served(config, str(tiny.model), chat, ALONE) as served:
        assert served is not None
        served.generate([prompt], Sampling(max_new_tokens=9), [[0]])
        served.generate([prompt], Sampling(max_new_tokens=7, temperature=0.5), [[4, 6]])
    assert (vllm.created["model"], vllm.created["tensor_parallel_size"]) == (str(tiny.model), 2)
    assert [asked["prompt_token_ids"] for asked, _ in vllm.asked] == [prompt] * 3
    drawn = {"stop": [], "max_tokens": 7, "temperature": 0.5, "top_p": 1.0}
    greedy = {"stop": [], "max_tokens": 9, "temperature": 0.0}
    assert [options for _, options in vllm.asked] == [greedy, drawn | {"seed": 4}, drawn | {"seed": 6}]


def test_errors_name_the_keys_of_evaluate(tiny: Tiny, chat: ChatTokenizer) -> None:
    evaluate = {"backend": "openai", "server": {"url": "http://127.0.0.1:9/v1", "retries": 0}}
    config = RunConfig.model_validate({"run_dir": "x", "model": {"path": "another"}, "evaluate": evaluate})
    with (
        pytest.raises(UserError, match=r"^evaluate\.server\.url = http://127\.0\.0\.1:9/v1: no answer"),
        open_served(config, str(tiny.model), chat, ALONE),
    ):
        pass
