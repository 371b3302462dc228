"""A model's size from its configuration alone, against the model itself and against a count by hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from altpo_ds.config.errors import UserError
from altpo_ds.plan.shape import model_shape
from tests.conftest import ROOT, Tiny

EXAMPLES = ROOT / "examples" / "plan"


def test_parameters_are_those_of_the_loaded_model(tiny: Tiny) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    shape = model_shape(str(tiny.model), torch.float32, gpu=False)
    assert sorted(shape.numels) == sorted(p.numel() for p in model.parameters())
    assert shape.tied
    assert shape.projection == model.lm_head.weight.numel()
    assert shape.body == shape.parameters - shape.projection


@pytest.mark.parametrize(("name", "billions"), [("8b", 8.03), ("70b", 70.55), ("405b", 405.85)])
def test_published_parameter_counts(name: str, billions: float) -> None:
    shape = model_shape(str(EXAMPLES / name), torch.bfloat16, gpu=True)
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert not shape.tied


def test_saved_tensors_of_a_layer_by_hand() -> None:
    # bfloat16 bytes a token: two norms keep float32 input, scaled and weighted copies; attention query, output (twice),
    # key and value of 8 of 32 heads, and a float32 normalizer a head; the gated MLP four times its inner width
    hidden, inner, heads = 4096, 14336, 32
    norms = 2 * (4 + 2 + 2) * hidden + 2 * 4
    attention = 2 * (3 * hidden + 2 * hidden // 4) + 4 * heads
    expected = norms + attention + 4 * 2 * inner
    assert model_shape(str(EXAMPLES / "8b"), torch.bfloat16, gpu=True).inside == pytest.approx(expected, rel=0.01)


def test_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration of a causal language model"):
        model_shape(str(tmp_path), torch.float32, gpu=False)
