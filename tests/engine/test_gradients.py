"""Gradient norms of rows equal those of plain backward passes, and leave the model without gradients."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from altpo_ds.data.trees import Tree
from altpo_ds.engine.distributed import World
from altpo_ds.engine.gradients import gradient_norms
from altpo_ds.engine.scorer import SequenceScorer
from tests.conftest import Tiny


def norm(model_path: Path, tree: Tree) -> float:
    model = AutoModelForCausalLM.from_pretrained(model_path)
    ids = torch.tensor([[*tree.prompt, *tree.responses[0]]])
    log_p = torch.log_softmax(model(ids).logits[0, len(tree.prompt) - 1 : -1], -1)
    (-log_p.gather(-1, torch.tensor(tree.responses[0])[:, None]).mean()).backward()
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.stack(norms).mean())


def test_norms_are_those_of_single_backward_passes(tiny: Tiny, world: World) -> None:
    trees = [Tree((5, 9, 30), ((40, 41, 42), (7,))), Tree((8, 9), ((50,),))]
    scorer = SequenceScorer(AutoModelForCausalLM.from_pretrained(tiny.model)).requires_grad_(False)
    found = gradient_norms(scorer, trees, world)
    assert found == pytest.approx([norm(tiny.model, tree) for tree in trees], rel=1e-4)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in scorer.parameters())
