"""Gradient norms of single rows, on a whole copy of the model: no optimizer's gradients are touched."""

from collections.abc import Sequence

import torch

from altpo_ds.data.trees import Tree, pack
from altpo_ds.engine.copies import fits, whole_copy
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.engine.scorer import SequenceScorer


def gradient_norms(scorer: SequenceScorer, trees: Sequence[Tree], world: World) -> list[float] | None:
    """For each tree of this rank, of its first response: the L2 norm of the gradient of its mean NLL, averaged over
    the model's parameter tensors. None where a copy fits into the memory of no rank. All ranks call it together.
    """
    if not all(gather_objects(fits(scorer.model, world))):
        return None
    scorer.use_own_attention()
    copy = SequenceScorer(whole_copy(scorer.model, world.device), scorer.attention).eval()
    norms: list[torch.Tensor] = []

    def keep_norm(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        norms.append(parameter.grad.float().norm())
        parameter.grad = None

    for parameter in copy.parameters():
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(keep_norm)
    results = []
    for tree in trees:
        norms.clear()
        log_probs, _ = copy(pack([Tree(tree.prompt, tree.responses[:1])]).to(world.device))
        (-log_probs.mean()).backward()
        results.append(float(torch.stack(norms).mean()))
    return results
