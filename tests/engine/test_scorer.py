"""Packed prefix trees give the losses and gradients of naive padded pairs, whatever the architecture."""

import copy
import random

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.errors import UserError
from altpo_ds.data.trees import Tree, pack
from altpo_ds.engine.flex import BLOCK, bucket
from altpo_ds.engine.scorer import SequenceScorer
from altpo_ds.objective import altpo_loss
from altpo_ds.objective.log_probs import response_sums

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": ("Llama", {}),
    "llama_gqa_tied": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama_bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2_sliding": (
        "Qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
    "mistral_sliding": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 5}),
    "gemma2": (
        "Gemma2",
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 5,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma3": ("Gemma3", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5}),
    "granite": ("Granite", {"num_key_value_heads": 2, "logits_scaling": 4.0}),
}


def build(name: str) -> transformers.PreTrainedModel:
    family, extra = MODELS[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + suffix)(**SIZES, **extra)
    torch.manual_seed(0)
    return getattr(transformers, family + "ForCausalLM")(config).double().eval()


def trees(seed: int = 0, k: int = 3) -> list[Tree]:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 97) for _ in range(draw.randint(low, high)))

    forget = Tree(tokens(5, 9), tuple(tokens(1, 9) for _ in range(k + 1)))
    single = Tree(tokens(2, 4), ((7,), (8, 9)))  # a response of one token has no branch of its own
    return [forget, single, Tree(tokens(4, 8), (tokens(3, 9),)), Tree(tokens(1, 1), (tokens(10, 12),))]


def naive_sums(model: transformers.PreTrainedModel, forest: list[Tree]) -> torch.Tensor:
    """One forward pass per response, the model's own logits, a plain log-softmax."""
    sums = []
    for tree in forest:
        for response in tree.responses:
            ids = torch.tensor([[*tree.prompt, *response]])
            log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
            picked = log_probs.gather(-1, ids[0, 1:, None])[:, 0]
            sums.append(picked[len(tree.prompt) - 1 :].sum())
    return torch.stack(sums)


def loss_of(sums: torch.Tensor) -> torch.Tensor:
    """AltPO on the three alternates of the first tree, with NLL on the rest."""
    reference = torch.linspace(-9, -7, 3, dtype=sums.dtype)
    return altpo_loss(sums[1:4], sums[0].expand(3), reference, reference.flip(0), beta=0.1) - sums[4:].mean()


@pytest.mark.parametrize("attention", ["tree", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_and_gradient_equal_naive_pairs(name: str, attention: str) -> None:
    model = build(name)
    scorer = SequenceScorer(copy.deepcopy(model), attention)
    assert scorer.trees == (attention == "tree")
    forest = trees()
    packed = pack(forest)
    log_probs, _ = scorer(packed)
    loss = loss_of(response_sums(log_probs, packed.response, len(packed.counts)))
    loss.backward()
    expected = loss_of(naive_sums(model, forest))
    expected.backward()
    # Gemma 2's own eager attention takes its softmax in float32.
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6 if name == "gemma2" else 1e-8)
    gradients = dict(scorer.model.named_parameters())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        packed_gradient = gradients[key].grad
        assert packed_gradient is not None
        difference = torch.linalg.vector_norm(packed_gradient - parameter.grad)
        # The models' own norms and rotary angles are float32, whatever the dtype.
        assert difference <= (1e-5 if name == "gemma2" else 1e-6) * torch.linalg.vector_norm(parameter.grad) + 1e-9, key


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_distribution_equals_models_own_logits(name: str) -> None:
    model = build(name)
    scorer = SequenceScorer(copy.deepcopy(model))
    tree = trees()[2]
    packed = pack([tree])
    _, distribution = scorer(packed, torch.arange(len(tree.responses[0])))
    ids = torch.tensor([[*tree.prompt, *tree.responses[0]]])
    expected = torch.log_softmax(model(input_ids=ids).logits[0, len(tree.prompt) - 1 : -1], -1)
    torch.testing.assert_close(distribution, expected, rtol=1e-6, atol=1e-6)


def test_a_token_is_computed_once() -> None:
    tree = Tree((1, 2, 3), ((4, 5), (6, 7, 8)))
    packed = pack([tree])
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 6, 7]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert packed.predictors.tolist() == [2, 3, 2, 4, 5]
    assert packed.targets.tolist() == [4, 5, 6, 7, 8]
    assert packed.counts.tolist() == [2, 3]


def test_unsupported_layers_fall_back_to_padded_rows(caplog: pytest.LogCaptureFixture) -> None:
    model = build("llama")
    model.config.layer_types = ["linear_attention", "full_attention"]
    scorer = SequenceScorer(model)
    assert not scorer.trees
    assert "falling back to padded rows" in caplog.text


@pytest.mark.parametrize("name", MODELS)
def test_flex_attention_equals_tree_by_tree(name: str) -> None:
    model = build(name)
    packed = pack(trees())
    with torch.no_grad():
        expected, _ = SequenceScorer(copy.deepcopy(model), "tree")(packed)
        log_probs, _ = SequenceScorer(model, "flex")(packed)
    tolerance = 1e-5 if name == "gemma2" else 1e-7  # its softmax is float32 in one of them
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=tolerance)


def test_flex_attention_does_not_train_on_cpus() -> None:
    with pytest.raises(UserError, match="no backward pass on CPUs"):
        SequenceScorer(build("llama"), "flex")(pack(trees()))


@given(st.integers(1, 200_000))
def test_row_lengths_come_in_few_sizes(tokens: int) -> None:
    padded = bucket(tokens)
    assert tokens <= padded <= tokens * 9 / 8 + BLOCK
    assert padded % BLOCK == 0
    assert bucket(padded) == padded
    octave = {bucket(n) for n in range(tokens, 2 * tokens, max(1, tokens // 64))}
    assert len(octave) <= 18


@pytest.mark.parametrize("name", ["llama_gqa_tied", "gemma2"])
def test_recomputed_activations_change_no_gradient(name: str) -> None:
    """gradient_checkpointing, as load_scorer turns it on."""
    gradients = []
    for checkpointing in (False, True):
        model = build(name)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        SequenceScorer(model, "tree")(pack(trees()))[0].sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        assert model.is_gradient_checkpointing == checkpointing
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
