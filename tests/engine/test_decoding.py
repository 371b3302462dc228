"""The decoding loop against transformers' own generate, and its random streams."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from altpo_ds.engine.decoding import Decoder, Sampling, choose

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 16},
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14], [15, 16, 17, 18, 19]]


class Letters:
    """A tokenizer whose token i is one letter; `decode` is all that the loop uses of it."""

    pad_token_id = 0
    eos_token_id = 2

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("0") + i) for i in ids)


def build(family: str = "Llama", seed: int = 0) -> transformers.PreTrainedModel:
    config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    if family != "Gemma2":  # whose eager attention gives NaN for padding in float64, not in float32
        model = model.double()
    # Far from the uniform distribution, so that greedy choices are no near ties and some rows end early.
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    head.weight.data.mul_(30)
    return model


def decoder(model: transformers.PreTrainedModel) -> Decoder:
    return Decoder(model, Letters(), torch.device("cpu"))  # pyright: ignore[reportArgumentType]


def alone(model: transformers.PreTrainedModel, prompt: list[int], **options: Any) -> list[int]:
    """transformers' greedy response to one prompt without padding, up to its end token."""
    output = model.generate(torch.tensor([prompt]), do_sample=False, pad_token_id=0, **options)  # pyright: ignore[reportCallIssue]
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate_for_each_prompt_alone(family: str) -> None:
    model = build(family)
    responses = decoder(model)(PROMPTS, Sampling(max_new_tokens=20), [[0]] * 3)
    assert responses == [[alone(model, prompt, max_new_tokens=20)] for prompt in PROMPTS]


def test_greedy_keeps_the_checkpoints_repetition_penalty() -> None:
    model = build()
    plain = decoder(model)([PROMPTS[2]], Sampling(max_new_tokens=12), [[0]])
    model.generation_config.repetition_penalty = 1.7
    penalised = decoder(model)([PROMPTS[2]], Sampling(max_new_tokens=12), [[0]])
    assert penalised == [[alone(model, PROMPTS[2], max_new_tokens=12)]]
    assert penalised != plain


def test_max_length_counts_each_prompt_by_itself() -> None:
    model = build()
    model.generation_config.eos_token_id = None
    responses = decoder(model)(PROMPTS, Sampling(max_length=10, temperature=5.0), [[1], [2], [3]])
    ends = [2 in response[0] for response in responses]
    assert [len(r[0]) for r, end in zip(responses, ends, strict=True) if not end] == [
        10 - len(prompt) for prompt, end in zip(PROMPTS, ends, strict=True) if not end
    ]
    assert not all(ends)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    decode, sampling = decoder(build()), Sampling(max_new_tokens=15, temperature=8.0)
    together = decode(PROMPTS, sampling, [[1, 2, 3], [4, 5], [6]])
    assert [len(of_prompt) for of_prompt in together] == [3, 2, 1]
    for prompt, seeds, responses in zip(PROMPTS, [[1, 2, 3], [4, 5], [6]], together, strict=True):
        for seed, response in zip(seeds, responses, strict=True):
            assert decode([prompt], sampling, [[seed]]) == [[response]]
    assert len({tuple(response) for of_prompt in together for response in of_prompt}) == 6


def test_rows_end_at_end_tokens_and_stop_texts() -> None:
    decode = decoder(build())
    sampling = Sampling(max_new_tokens=40, temperature=12.0)
    free = [row for of_prompt in decode(PROMPTS, sampling, [list(range(20))] * 3) for row in of_prompt]
    assert any(row[-1] == 2 and len(row) < 40 for row in free)
    assert all(2 not in row[:-1] for row in free)
    stop = Letters().decode(max(free, key=len)[4:6])
    stopped = decode(PROMPTS, Sampling(max_new_tokens=40, temperature=12.0, stop=(stop,)), [list(range(20))] * 3)
    for row, cut in zip(free, (row for of_prompt in stopped for row in of_prompt), strict=True):
        place = Letters().decode(row).find(stop)
        assert cut == (row if place < 0 else row[: place + len(stop)])


def test_temperature_and_nucleus_shape_the_choice() -> None:
    model = build()
    greedy = decoder(model)([PROMPTS[1]], Sampling(max_new_tokens=10), [[0]])
    narrow = Sampling(max_new_tokens=10, temperature=3.0, top_p=1e-6)
    assert decoder(model)([PROMPTS[1]], narrow, [[7]]) == greedy
    cold = Sampling(max_new_tokens=10, temperature=1e-4)
    assert decoder(model)([PROMPTS[1]], cold, [[7]]) == greedy


def test_choices_follow_the_distribution() -> None:
    scores = torch.tensor([0.5, -1.0, float("-inf"), 2.0, 0.0])
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(choose(scores.expand(len(draws), -1), draws), minlength=5)
    assert counts[2] == 0
    expected = torch.softmax(scores, -1).double() * len(draws)
    kept = [0, 1, 3, 4]
    assert chisquare(counts[kept].numpy(), expected[kept].numpy(), sum_check=False).pvalue > 0.01


@given(st.lists(st.floats(-50, 50) | st.just(float("-inf")), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True))
def test_a_token_without_any_chance_is_never_chosen(scores: list[float], draw: float) -> None:
    if all(score == float("-inf") for score in scores):
        return
    row = torch.tensor([scores])
    token = int(choose(row, torch.tensor([draw])))
    assert torch.softmax(row, -1)[0, token] > 0
