"""Metrics against published evaluations, hand-computed cases and the properties that define them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from altpo_ds.config.errors import UserError
from altpo_ds.evaluate import metrics as m

GOLDEN = Path(__file__).parents[2].parent / "shared" / "data" / "golden"
LOGS = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem.startswith(("altpo_", "tofu_")))
needs_golden = pytest.mark.skipif(not LOGS, reason="needs ../shared/data/golden")
DIALECTS: tuple[m.Dialect, ...] = ("altpo", "tofu_trainer", "openunlearning")

nlls = st.floats(0, 50)
perturbed = st.lists(nlls, min_size=1, max_size=6)
units = st.floats(0.001, 1)


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def as_rows(values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    names = {
        "avg_gt_loss": "answer_nll",
        "avg_paraphrased_loss": "paraphrased_nll",
        "average_perturb_loss": "perturbed_nll",
        "rougeL_recall": "rouge_l",
    }
    columns = {names[key]: column for key, column in values.items() if key in names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def some_splits(rows: int = 3) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [
            {
                "question": f"{split} {number}?",
                "answer_nll": 0.1 * (number + 1),
                "paraphrased_nll": 0.2 * (number + 1),
                "perturbed_nll": [1.0, 2.0 + number],
                "rouge_l": 0.5,
            }
            for number in range(rows)
        ]
        for split in m.SPLITS
    }


@needs_golden
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", LOGS)
def test_published_evaluations(name: str, dialect: m.Dialect) -> None:
    log = golden(name)
    splits = {split: as_rows(values) for split, values in log["inputs"]["splits"].items()}
    actual = m.tofu_metrics(splits, dialect, as_rows(log["inputs"]["reference_forget"]))
    expected = log["expected"][dialect]
    for split in m.SPLITS:
        for score, published in (
            ("probability", "probability"),
            ("rouge_l", "rougeL_recall"),
            ("truth_ratio", "truth_ratio"),
        ):
            assert actual[f"{split}_{score}"] == pytest.approx(expected[split][published], abs=1e-6)
        assert actual[f"{split}_rows"] == len(splits[split])
    assert actual["model_utility"] == pytest.approx(expected["model_utility"], abs=1e-6)
    assert actual["forget_quality_ks"] == pytest.approx(expected["forget_quality_ks_stat"], abs=1e-12)
    assert actual["forget_quality"] == pytest.approx(expected["forget_quality"], rel=1e-3)
    assert actual["forget_quality_log10"] == pytest.approx(math.log10(expected["forget_quality"]), abs=1e-3)


@needs_golden
@pytest.mark.parametrize("name", [name for name in LOGS if name.startswith("altpo_")])
def test_published_rounded_figures(name: str) -> None:
    log = golden(name)
    splits = {split: as_rows(values) for split, values in log["inputs"]["splits"].items()}
    actual = m.tofu_metrics(splits, "altpo", as_rows(log["inputs"]["reference_forget"]))
    compared = 0
    for key, published in log["published_rounded"].items():
        metric = key.removeprefix("altpo.").replace(".", "_").replace("rougeL_recall", "rouge_l")
        if metric in actual:
            assert round(actual[metric] or 0, 3) == published, key
            compared += 1
    assert compared >= 13


@needs_golden
@pytest.mark.parametrize("name", LOGS)
def test_versions_of_the_forget_answers(name: str) -> None:
    log = golden(name)
    expected = log["expected"]["altpo"]["forget"]
    scores = m.version_scores(as_rows(log["inputs"]["splits"]["forget"]))
    found = {key: float(np.mean(values)) for key, values in scores.items()}
    assert found["paraphrased_probability"] == pytest.approx(expected["paraphrase_prob"], rel=1e-7)
    assert found["perturbed_probability"] == pytest.approx(expected["perturbed_prob"], rel=1e-7)
    assert found["truth_probability"] == pytest.approx(expected["truth_ratio_prob_mean"], rel=1e-7)


@needs_golden
@pytest.mark.parametrize("name", [name for name in LOGS if name.startswith("altpo_")])
def test_cleanness(name: str) -> None:
    log = golden(name)
    scores, reference = log["inputs"]["clean_scores"], log["inputs"]["reference_clean_scores"]
    assert m.cleanness_indistinguishability(scores, reference) == pytest.approx(log["expected"]["ci"], rel=1e-6)
    assert m.ks_test(scores, reference).statistic == pytest.approx(log["expected"]["ci_ks_stat"], abs=1e-12)


@needs_golden
def test_published_pvalues() -> None:
    for case in golden("ks_published")["cases"]:
        n, h = case["n"], case["h"]
        test = m.ks_test(np.arange(n).tolist(), (np.arange(n) + h - 0.5).tolist())
        assert round(test.statistic * n) == h
        assert test.pvalue == pytest.approx(case["pvalue"], rel=1e-6)
        assert f"{test.pvalue:.2e}" == case["published"]


@needs_golden
def test_rouge_of_published_generations() -> None:
    for reference, prediction, recall in golden("rougeL_llama2_full")["cases"]:
        assert m.rouge_l_recall(prediction, reference) == pytest.approx(recall, abs=1e-9)


def test_hand_computed_values() -> None:
    assert m.probability(math.log(4)) == pytest.approx(0.25)
    half, quarter = math.log(2), math.log(4)
    # perturbed probabilities 1/2 and 1/8: geometric mean 1/4, arithmetic mean 5/16; paraphrase 1/2
    assert m.truth_ratio(half, [half, math.log(8)]) == pytest.approx(0.5)
    assert m.truth_ratio(half, [half, math.log(8)], "tofu_trainer") == pytest.approx(0.625)
    assert m.truth_ratio(half, [half, math.log(8)], "openunlearning") == pytest.approx(0.25 / (0.5 + 1e-10))
    assert m.normalised_probability(half, [quarter, quarter], "altpo") == pytest.approx(0.5)
    assert m.normalised_probability(30.0, [30.0], "openunlearning") < 0.001  # 1e-10 outweighs exp(-30)
    assert m.normalised_probability(900.0, [900.0], "altpo") == pytest.approx(0.5)
    assert m.forget_truth_score(4.0) == m.forget_truth_score(0.25) == 0.25
    assert [m.utility_truth_score(ratio) for ratio in (0.25, 1.0, 3.0)] == [0.75, 0.0, 0.0]
    assert m.model_utility([0.5] * 8 + [1.0]) == pytest.approx(9 / 17)
    assert m.model_utility([0.5] * 8 + [0.0]) == 0.0


def test_rouge_by_hand() -> None:
    assert m.rouge_l_recall("She was born in Oslo.", "Born in Oslo, she writes") == pytest.approx(3 / 5)
    assert m.rouge_l_recall("author writing", "authors WRITES") == 1.0  # stems
    assert m.rouge_l_recall("", "words") == m.rouge_l_recall("words", "") == 0.0


def test_ks_by_hand() -> None:
    # two of 20 orders of 3 + 3 values separate the samples
    assert m.ks_test([1, 2, 3], [4, 5, 6]) == pytest.approx((1.0, 0.1, -1.0, 3.0))
    assert m.forget_quality([1, 2, 3], [1, 2, 3]) == 1.0


def test_log10_pvalue_does_not_underflow() -> None:
    n = 1000
    test = m.ks_test(np.arange(n).tolist(), (np.arange(n) + n).tolist())
    assert test.pvalue == 0.0
    assert test.log10_pvalue == pytest.approx(math.log10(2) - math.log10(math.comb(2 * n, n)), abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 80))
def test_pvalue_equals_scipy_where_that_is_exact(m_size: int, n_size: int, shift: int) -> None:
    sample, other = np.arange(m_size).tolist(), (np.arange(n_size) + shift - 0.5).tolist()
    test, result = m.ks_test(sample, other), ks_2samp(sample, other, method="exact")
    assert test.statistic == pytest.approx(result.statistic)  # pyright: ignore
    if test.pvalue < 0.99:
        assert test.pvalue == pytest.approx(result.pvalue, rel=1e-9)  # pyright: ignore
    assert test.log10_pvalue == pytest.approx(math.log10(test.pvalue), abs=1e-9)


@given(nlls, perturbed, st.sampled_from(DIALECTS))
def test_ranges(nll: float, wrong: list[float], dialect: m.Dialect) -> None:
    ratio = m.truth_ratio(nll, wrong, dialect)
    assert 0 < ratio < math.inf
    assert 0 < m.forget_truth_score(ratio, dialect) <= 1
    assert 0 <= m.utility_truth_score(ratio) <= 1
    assert 0 <= m.normalised_probability(nll, wrong, dialect) <= 1


@given(nlls, nlls)
def test_truth_ratio_is_inverted_by_swapping(right: float, wrong: float) -> None:
    assert m.truth_ratio(right, [wrong]) * m.truth_ratio(wrong, [right]) == pytest.approx(1)
    assert m.forget_truth_score(m.truth_ratio(right, [wrong])) == pytest.approx(
        m.forget_truth_score(m.truth_ratio(wrong, [right]))
    )


@given(nlls, perturbed)
def test_arithmetic_ratio_is_at_least_the_geometric(nll: float, wrong: list[float]) -> None:
    assert m.truth_ratio(nll, wrong, "tofu_trainer") >= m.truth_ratio(nll, wrong) * (1 - 1e-9)


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=30), st.data())
def test_ks_is_symmetric_and_unchanged_by_reciprocals(logs: list[int], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(-40, 40), min_size=len(logs), max_size=len(logs)))
    sample, reference = [2.0**value for value in logs], [2.0**value for value in other]
    test = m.ks_test(sample, reference)
    assert 0 <= test.statistic <= 1
    assert 0 < test.pvalue <= 1
    assert m.ks_test(reference, sample)[:3] == test[:3]
    assert m.ks_test([1 / value for value in sample], [1 / value for value in reference])[:3] == test[:3]


@given(st.lists(units, min_size=9, max_size=9))
def test_model_utility_lies_between_the_least_and_the_mean(values: list[float]) -> None:
    utility = m.model_utility(values)
    assert min(values) * (1 - 1e-9) <= utility <= min(np.mean(values), 9 * min(values)) * (1 + 1e-9)
    assert m.model_utility(values[::-1]) == pytest.approx(utility)


def test_certain_answers_may_be_just_below_zero() -> None:
    assert m.probability(-1e-7) == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: m.probability(math.nan), "nll_mean: value 1 is not a finite number"),
        (lambda: m.probability(-1.0), "negative"),
        (lambda: m.truth_ratio(1.0, []), "perturbed_nll: needs a list"),
        (lambda: m.truth_ratio(1.0, [2.0, math.inf]), "perturbed_nll: value 2"),
        (lambda: m.model_utility([0.5] * 8), "nine values"),
        (lambda: m.model_utility([0.5] * 8 + [1.5]), "between 0 and 1"),
        (lambda: m.forget_quality([], [1.0]), "forget quality: needs a list"),
        (lambda: m.forget_quality([1.0, math.nan], [1.0, 2.0]), "forget quality: value 2"),
    ],
)
def test_wrong_input(call: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_metrics_that_cannot_be_computed_have_a_reason() -> None:
    splits = some_splits()
    metrics = m.tofu_metrics({"forget": splits["forget"], "retain": splits["retain"]}, "altpo")
    reasons = m.tofu_reasons(metrics)
    assert metrics["forget_quality"] is None
    assert "retain_reference" in reasons["forget_quality"]
    assert metrics["model_utility"] is None
    assert "real_authors_probability" in reasons["model_utility"]
    assert reasons["world_facts_rouge_l"] == "no world_facts rows were given"
    assert metrics["world_facts_rows"] == 0
    assert set(reasons) == {name for name, value in metrics.items() if value is None}


def test_a_column_that_no_row_has() -> None:
    splits = some_splits()
    for row in splits["forget"]:
        row["perturbed_nll"] = []
    metrics = m.tofu_metrics(splits, "altpo", splits["forget"])
    assert metrics["forget_truth_ratio"] is None
    assert metrics["forget_quality"] is None
    assert "lack a column" in m.tofu_reasons(metrics)["forget_quality"]
    assert metrics["forget_probability"] == pytest.approx(np.mean(np.exp([-0.1, -0.2, -0.3])))


def test_rows_that_do_not_belong_together() -> None:
    splits = some_splits()
    with pytest.raises(UserError, match="2 forget rows, the model was evaluated on 3"):
        m.tofu_metrics(splits, "altpo", splits["forget"][:2])
    with pytest.raises(UserError, match="forget row 1: question 'forget 2"):
        m.tofu_metrics(splits, "altpo", splits["forget"][::-1])
    with pytest.raises(UserError, match="have no perturbed_nll"):
        m.tofu_metrics(splits, "altpo", [row | {"perturbed_nll": None} for row in splits["forget"]])
    splits["retain"][1]["rouge_l"] = None
    with pytest.raises(UserError, match="retain, row 2: no rouge_l"):
        m.tofu_metrics(splits, "altpo")
    splits["retain"][1]["rouge_l"] = 1.5
    with pytest.raises(UserError, match=r"rouge_l must lie between 0 and 1"):
        m.tofu_metrics(splits, "altpo")
