"""Chunked token log-probabilities equal log-softmax and gather, in value and in gradient."""

import pytest
import torch
from torch import Tensor

from altpo_ds.objective import log_probs
from altpo_ds.objective.log_probs import response_sums, token_log_probs

N, D, V = 7, 4, 5


def inputs(bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    hidden, weight, offset = (torch.randn(shape, dtype=dtype) for shape in ((N, D), (V, D), (V,)))
    targets = torch.randint(V, (N,))
    return hidden.requires_grad_(), weight.requires_grad_(), offset.requires_grad_() if bias else None, targets


def naive(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    logits = scale * (hidden @ weight.T + (0 if bias is None else bias))
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("rows", [1, 3, N, 100], ids="{} rows a chunk".format)
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, 0.0), (0.25, 0.0), (1.0, 2.0), (0.5, 1.5)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_value_and_gradient_equal_naive_ones(
    monkeypatch: pytest.MonkeyPatch, rows: int, scale: float, softcap: float, bias: bool
) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_BYTES", 4 * V * rows)
    hidden, weight, offset, targets = inputs(bias)
    upstream = torch.linspace(-1, 2, N, dtype=torch.float64)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    ours = token_log_probs(hidden, weight, offset, targets, scale, softcap)
    expected = naive(hidden, weight, offset, targets, scale, softcap)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours @ upstream, leaves),
        torch.autograd.grad(expected @ upstream, leaves),
        rtol=1e-11,
        atol=1e-12,
    )


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_BYTES", 4 * V * 2)
    hidden, weight, bias, targets = inputs()
    assert bias is not None
    assert torch.autograd.gradcheck(lambda h, w, b: token_log_probs(h, w, b, targets, 0.7, 3.0), (hidden, weight, bias))


@pytest.mark.parametrize("needed", [0, 1])
def test_gradient_of_one_input_alone(needed: int) -> None:
    hidden, weight, _, targets = inputs(bias=False)
    leaves = [hidden, weight]
    leaves[1 - needed].requires_grad_(False)
    ours = torch.autograd.grad(token_log_probs(hidden, weight, None, targets).sum(), leaves[needed])
    expected = torch.autograd.grad(naive(hidden, weight, None, targets).sum(), leaves[needed])
    torch.testing.assert_close(ours, expected)


def test_bfloat16_sums_in_float32() -> None:
    hidden, weight, bias, targets = inputs(dtype=torch.bfloat16)
    ours = token_log_probs(hidden, weight, bias, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, naive(hidden, weight, bias, targets).float(), rtol=0.05, atol=0.05)
    ours.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def test_no_targets_give_nothing_but_keep_the_graph() -> None:
    _, weight, bias, _ = inputs()
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    ours = token_log_probs(hidden, weight, bias, torch.zeros(0, dtype=torch.long))
    assert ours.shape == (0,)
    ours.sum().backward()  # a rank without rows takes part in the backward pass
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


def test_response_sums() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums = response_sums(values, torch.tensor([2, 0, 2, 0]), 4)
    assert sums.tolist() == [10.0, 0.0, 5.0, 0.0]
    (sums * torch.tensor([1.0, 1.0, 3.0, 1.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [3.0, 1.0, 3.0, 1.0]
