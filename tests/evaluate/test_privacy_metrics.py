"""Memorization and membership attacks against golden vectors, and cases whose answer is known."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.errors import UserError
from altpo_ds.engine.scoring import TokenScores
from altpo_ds.evaluate import privacy_metrics as m

GOLDEN = Path(__file__).parents[2].parent / "shared" / "data" / "golden" / "synthetic_public.json"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="needs ../shared/data/golden")


def cases(kind: str) -> list[dict[str, Any]]:
    return [case for case in json.loads(GOLDEN.read_text())["cases"] if case["kind"] == kind]


def token_scores(case: dict[str, Any]) -> TokenScores:
    """Of the labelled tokens, each predicted from the position before it."""
    labels = torch.tensor(case["labels"])[1:]
    log_p = torch.log_softmax(torch.tensor(case["logits"], dtype=torch.float64)[:-1], -1)[labels != -100]
    targets = labels[labels != -100]
    mean = (log_p.exp() * log_p).sum(-1)
    variance = (log_p.exp() * log_p**2).sum(-1) - mean**2
    return TokenScores(log_p.gather(-1, targets[:, None])[:, 0], log_p.argmax(-1) == targets, mean, variance)


@needs_golden
def test_token_metrics_match_the_golden_vectors() -> None:
    for case in cases("token_metrics"):
        found = m.memorization(token_scores(case), "a text", "openunlearning")
        expected = case["expected"]
        assert found["min_k"] == pytest.approx(expected["min_k"], abs=1e-9)
        assert found["min_k_plus_plus"] == pytest.approx(expected["min_k_pp"], abs=1e-9)
        assert found["exact_memorization"] == pytest.approx(expected["exact_memorization"])
        assert found["extraction_strength"] == pytest.approx(expected["extraction_strength"])
        size = len(zlib.compress(b"a text"))
        assert found["zlib"] == pytest.approx(expected["avg_loss"] / size, abs=1e-9)


@needs_golden
def test_auc_privleak_and_relative_difference_match_the_golden_vectors() -> None:
    for case in cases("auc"):
        auc = m.membership_auc(case["forget"], case["holdout"])
        assert auc.value == pytest.approx(case["expected"]["auc"], abs=1e-12)
        assert auc.interval.low < auc.value < auc.interval.high
    for case in cases("privleak"):
        assert m.privleak(case["auc"], case["ref_auc"]) == pytest.approx(case["expected"]["privleak"])
        assert m.relative_difference(case["auc"], case["ref_auc"]) == pytest.approx(case["expected"]["rel_diff"])


def test_an_attack_that_tells_every_member_has_auc_1_and_one_that_sees_nothing_a_half() -> None:
    assert m.membership_auc([0.1, 0.2, 0.3], [1.0, 2.0]).value == 1
    assert m.membership_auc([1.0, 2.0], [0.1, 0.2, 0.3]).value == 0
    assert m.membership_auc([1.0, 1.0, 1.0], [1.0, 1.0]).value == 0.5
    same = [float(i) for i in range(20)]
    assert m.membership_auc(same, same).value == 0.5


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_auc_is_the_share_of_pairs_in_order(members: list[int], others: list[int]) -> None:
    pairs = [(o > f) + (o == f) / 2 for f in members for o in others]
    found = m.membership_auc([float(f) for f in members], [float(o) for o in others])
    assert found.value == pytest.approx(sum(pairs) / len(pairs))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="forget rows: value 2 is not a finite number"):
        m.membership_auc([1.0, math.nan], [1.0])


def test_extraction_strength_by_hand() -> None:
    assert m.extraction_strength([True] * 4) == 1
    assert m.extraction_strength([True, False, True, True]) == 0.5
    assert m.extraction_strength([True, True, False]) == 0  # not even the last token follows from the rest
    assert m.extraction_strength([True, True, False], "openunlearning") == pytest.approx(1 / 3)
    assert m.extraction_strength([]) is None


def test_min_k_by_hand() -> None:
    # floor(0.4 * 5) = 2 of the five lowest: -4 and -3
    assert m.min_k([-1.0, -4.0, -2.0, -3.0, -0.5]) == 3.5
    assert m.min_k([-1.0]) == 1
    assert m.min_k([]) is None
