"""Log-probabilities of response tokens from hidden states, without keeping the full logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20  # float32 logits held at a time


class _TokenLogProbs(torch.autograd.Function):
    """Projection, softcap, log-softmax and gather in one, chunk by chunk; backward recomputes all but a sole chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, softcap: float
    ) -> Tensor:
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        result = hidden.new_empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        log_normalizers = torch.empty_like(result)
        # One chunk's softmax may stay for the backward pass; its memory was needed a moment ago anyway.
        keep = any(ctx.needs_input_grad[:3]) and len(targets) <= rows and not softcap
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], weight, bias, scale, softcap)
            # The softmax up to its sum, in place: logsumexp would need a second buffer of this size.
            top, picked = logits.amax(-1, keepdim=True), logits.gather(-1, targets[part, None])
            weights = logits.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            log_normalizers[part] = (top + total.log())[:, 0]
            result[part] = (picked - top - total.log())[:, 0]
            ctx.softmax = (weights, total) if keep else None
        ctx.save_for_backward(hidden, weight, bias, targets, log_normalizers)
        ctx.scale, ctx.softcap, ctx.rows = scale, softcap, rows
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, log_normalizers = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        for start in range(0, len(targets), ctx.rows):
            part = slice(start, start + ctx.rows)
            capped = None
            if ctx.softmax is None:
                capped = _logits(hidden[part], weight, bias, ctx.scale, ctx.softcap)
                shifted = capped.clone() if ctx.softcap else capped
                weights, total = shifted.sub_(log_normalizers[part, None]).exp_(), 1.0
            else:
                (weights, total), ctx.softmax = ctx.softmax, None
            # d log p(target) / d logits = onehot(target) - softmax
            grad_logits = weights.mul_(-grad[part, None] / total)
            grad_logits.scatter_add_(-1, targets[part, None], grad[part, None])
            if ctx.softcap and capped is not None:
                grad_logits *= 1 - (capped / ctx.softcap) ** 2
            grad_logits = (grad_logits.mul_(ctx.scale) if ctx.scale != 1 else grad_logits).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight
            if need_weight:
                update = grad_logits.T @ hidden[part]
                grad_weight = update if grad_weight is None else grad_weight.add_(update)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.float() if logits.dtype != torch.float64 else logits
    if scale != 1:
        logits = logits.mul_(scale)
    return logits.div_(softcap).tanh_().mul_(softcap) if softcap else logits


def token_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    """log softmax(scale * (hidden @ weight.T + bias))[target], softcapped as in Gemma 2 where `softcap` is not 0.

    Shapes: hidden (N, d), weight (V, d), bias (V,), targets (N,) -> (N,) in float32 (float64 stays).
    At most CHUNK_BYTES of logits exist at a time; gradients flow to hidden, weight and bias, once.
    """
    if not len(targets):
        return hidden.sum(-1) + 0 * weight.sum()
    return _TokenLogProbs.apply(hidden, weight, bias, targets, scale, softcap)  # pyright: ignore[reportReturnType]


def response_sums(log_probs: Tensor, response: Tensor, responses: int) -> Tensor:
    """Sums token log-probabilities (N,) per response: (R,). `response` (N,) says which one a token belongs to."""
    return log_probs.new_zeros(responses).index_add(0, response, log_probs)
