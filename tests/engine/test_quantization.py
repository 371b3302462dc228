"""Rounding of weights by hand, and on a model: linear layers change, embeddings and head do not."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from altpo_ds.engine.distributed import World
from altpo_ds.engine.quantization import quantize, rounded
from altpo_ds.engine.scorer import SequenceScorer
from tests.conftest import Tiny


def test_a_channel_is_rounded_to_its_own_scale() -> None:
    weight = torch.tensor([[127.0, 1.4, -0.6, 0.0], [-1.27, 0.004, 0.006, 0.1]])
    expected = torch.tensor([[127.0, 1.0, -1.0, 0.0], [-1.27, 0.0, 0.01, 0.1]])
    torch.testing.assert_close(rounded(weight, 8, None), expected)


def test_four_bits_have_seven_steps_to_each_side_in_every_group() -> None:
    weight = torch.tensor([[7.0, 2.4, 0.7, 0.26]])
    torch.testing.assert_close(rounded(weight, 4, 2), torch.tensor([[7.0, 2.0, 0.7, 0.3]]))
    assert rounded(torch.zeros(2, 3), 4, 2).equal(torch.zeros(2, 3))


@pytest.mark.parametrize(("bits", "error"), [(8, 1 / 254), (4, 1 / 14)])
def test_linear_layers_alone_change(bits: int, error: float, tiny: Tiny, world: World) -> None:
    scorer = SequenceScorer(AutoModelForCausalLM.from_pretrained(tiny.model)).requires_grad_(False)
    before = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    quantize(scorer, bits)
    for name, value in scorer.model.state_dict().items():
        if "proj" in name:
            gap = (value - before[name]).abs().amax(1)
            assert gap.max() > 0
            assert (gap <= before[name].abs().amax(1) * error * 1.001).all()  # half a step of the channel's scale
        else:
            assert value.equal(before[name]), name
