"""Losses against golden and hand-computed values, autograd, and any split of a batch."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from altpo_ds.config.schema import ObjectiveConfig
from altpo_ds.objective.compose import SUMS, Scores, Totals, objective
from altpo_ds.objective.losses import altpo_loss, count_correct, kl_divergence, preference_losses

PAIR = st.tuples(*[st.floats(-200, 0)] * 4)
BETA = st.floats(0.01, 1)


def columns(pairs: list[tuple[float, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    alternate, forget, reference_alternate, reference_forget = torch.tensor(pairs, dtype=torch.float64).T
    return alternate, forget, reference_alternate, reference_forget


def leaves(pairs: list[tuple[float, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, f, ra, rf = columns(pairs)
    return a.requires_grad_(), f.requires_grad_(), ra, rf


def test_golden_preference_losses(shared: Path) -> None:
    cases = json.loads((shared / "data" / "golden" / "synthetic_public.json").read_text())["cases"]
    cases = [case for case in cases if case["kind"] == "preference_loss"]
    assert cases
    for case in cases:
        nll = zip(*(case[name] for name in ("win_nll", "lose_nll", "ref_win_nll", "ref_lose_nll")), strict=True)
        log_probs = columns([tuple(-value for value in pair) for pair in nll])
        expected = case["expected"]["altpo_or_dpo"]
        assert altpo_loss(*log_probs, case["beta"]).item() == pytest.approx(expected, rel=1e-9), case["name"]


def test_hand_computed_values() -> None:
    # log ratios 3 and -1: beta * (3 - -1) = 2 at beta 0.5
    pair = columns([(-4.0, -6.0, -7.0, -5.0)])
    losses, alternate, forget = preference_losses(*pair, beta=0.5)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert (alternate.item(), forget.item()) == (3.0, -1.0)
    assert altpo_loss(*pair, beta=0.5).item() == pytest.approx(4 * math.log(1 + math.exp(-2)))
    assert preference_losses(*pair, beta=0.5, scale=3.0)[0].item() == pytest.approx(3 * math.log(1 + math.exp(-2)))
    assert count_correct(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 3.0])).item() == 1


def test_the_untrained_policy_has_loss_two_over_beta_log_two() -> None:
    scores = torch.tensor([-3.0, -8.0])
    assert altpo_loss(scores, scores.flip(0), scores, scores.flip(0), 0.1).item() == pytest.approx(20 * math.log(2))


def test_far_pairs_stay_finite() -> None:
    far = torch.tensor([-1e4], requires_grad=True)
    loss = altpo_loss(far, torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([-1e4]), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(2 / 0.1 * 0.1 * 2e4)
    assert far.grad is not None
    assert far.grad.item() == pytest.approx(-2)


@settings(deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=5), BETA)
def test_gradient_equals_that_of_the_naive_formula(pairs: list[tuple[float, ...]], beta: float) -> None:
    ours = leaves(pairs)
    altpo_loss(*ours, beta).backward()
    a, f, ra, rf = naive = leaves(pairs)
    margin = beta * ((a - ra) - (f - rf))
    # log(1 + e^-x), written so that neither exponential overflows
    (2 / beta * (torch.exp(-margin.abs()).log1p() + (-margin).clamp(min=0)).mean()).backward()
    for mine, expected in zip(ours[:2], naive[:2], strict=True):
        assert mine.grad is not None
        if (margin.abs() > 1e-9).all():  # the naive form has a kink of its own at 0
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(PAIR, BETA, st.floats(0.5, 50))
def test_loss_falls_as_the_alternate_gains(pair: tuple[float, ...], beta: float, gain: float) -> None:
    a, f, ra, rf = columns([pair])
    before, after = altpo_loss(a, f, ra, rf, beta), altpo_loss(a + gain, f, ra, rf, beta)
    assert after < before
    assert altpo_loss(a, f + gain, ra, rf, beta) > before


@settings(deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=5), BETA)
def test_gradient_is_two_over_beta_times_that_of_dpo(pairs: list[tuple[float, ...]], beta: float) -> None:
    first, second = leaves(pairs), leaves(pairs)
    altpo_loss(*first, beta).backward()
    preference_losses(*second, beta)[0].mean().backward()
    for altpo, dpo in zip(first[:2], second[:2], strict=True):
        assert altpo.grad is not None
        assert dpo.grad is not None
        torch.testing.assert_close(altpo.grad, 2 / beta * dpo.grad)


def test_kl_equals_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 6, 11, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=reference), torch.distributions.Categorical(logits=policy)
    )
    ours = kl_divergence(policy.log_softmax(-1), reference.log_softmax(-1))
    torch.testing.assert_close(ours, expected)
    assert (ours > 0).all()
    assert kl_divergence(policy.log_softmax(-1), policy.log_softmax(-1)).abs().max() < 1e-12


def scores_of(pairs: list[tuple[float, ...]], retain: list[float], kl: bool) -> Scores:
    empty = torch.zeros(0, dtype=torch.float64)
    pa, pf, ra, rf = columns(pairs) if pairs else (empty, empty, empty, empty)
    kept = torch.tensor(retain, dtype=torch.float64)
    rows = torch.stack([kept, -kept], -1).reshape(len(retain), 2)
    distributions = (rows.log_softmax(-1), (rows / 2).log_softmax(-1)) if kl else (None, None)
    return Scores(pa, pf, kept, ra, rf, *distributions)


@settings(deadline=None)
@given(
    st.lists(PAIR, min_size=1, max_size=6),
    st.lists(st.floats(-50, 0), min_size=1, max_size=6),
    st.sampled_from(["nll", "kl", "none"]),
    st.data(),
)
def test_objective_adds_up_over_any_split(
    pairs: list[tuple[float, ...]], retain: list[float], retain_loss: str, data: st.DataObject
) -> None:
    config = ObjectiveConfig(retain_loss=retain_loss, forget_weight=0.7, retain_weight=1.3)  # pyright: ignore[reportArgumentType]
    totals = Totals(pairs=len(pairs), retain_tokens=17)
    cut, kept = data.draw(st.integers(0, len(pairs))), data.draw(st.integers(0, len(retain)))
    kl = retain_loss == "kl"
    whole, sums = objective(config, scores_of(pairs, retain, kl), totals)
    first, first_sums = objective(config, scores_of(pairs[:cut], retain[:kept], kl), totals)
    second, second_sums = objective(config, scores_of(pairs[cut:], retain[kept:], kl), totals)
    torch.testing.assert_close(first + second, whole)
    torch.testing.assert_close(first_sums + second_sums, sums)
    named = dict(zip(SUMS, sums.tolist(), strict=True))
    share = 0.0 if retain_loss == "none" else 1.3
    assert whole.item() == pytest.approx(0.7 * named["loss_forget"] + share * named["loss_retain"])
    assert named["loss_forget"] == pytest.approx(altpo_loss(*columns(pairs), config.beta).item())


def test_fine_tuning_is_the_mean_nll_of_a_token() -> None:
    config = ObjectiveConfig(name="sft")
    loss, sums = objective(config, scores_of([], [-6.0, -4.0], False), Totals(pairs=0, retain_tokens=5))
    assert loss.item() == pytest.approx(2.0)
    assert sums.tolist() == pytest.approx([0, 2, 0, 0, 0, 0])


def test_diagnostics_are_means_over_pairs() -> None:
    pairs = [(-4.0, -6.0, -7.0, -5.0), (-9.0, -6.0, -7.0, -7.0)]  # log ratios (3, -1) and (-2, 1)
    _, sums = objective(ObjectiveConfig(beta=0.5), scores_of(pairs, [0.0], False), Totals(2, 1))
    named = dict(zip(SUMS, sums.tolist(), strict=True))
    assert named["preference_accuracy"] == 0.5
    assert named["preference_margin"] == pytest.approx(0.5 * (4 - 3) / 2)
    assert (named["log_ratio_alternate"], named["log_ratio_forget"]) == (0.5, 0.0)
