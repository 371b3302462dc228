"""The terminal summary and how metrics are written."""

import pytest
from rich.console import Console

from altpo_ds.evaluate.summary import Metrics, summary_table, utility_kept, write_value


def shown(before: Metrics | None, after: Metrics | None, retain: Metrics | None) -> str:
    console = Console(width=80, record=True)
    with console.capture() as capture:
        console.print(summary_table(before, after, retain))
    return capture.get()


def test_summary_of_an_unlearned_model() -> None:
    before = {"forget_quality": 1.8e-21, "model_utility": 0.6, "forget_rows": 300}
    after = {"forget_quality": 0.7220, "model_utility": 0.57, "forget_rows": 300}
    text = shown(before, after, {"forget_quality": None, "model_utility": 0.614})
    assert "forgotten, 95% of model utility kept" in text
    assert [cell.strip() for cell in text.splitlines()[4].split("│")[2:5]] == ["1.8e-21", "0.722", "–"]
    assert "300" in text
    assert "World facts" not in text


def test_summary_without_the_models_to_compare_with() -> None:
    assert "not forgotten" in shown(None, {"forget_quality": 0.05, "model_utility": None}, None)


@pytest.mark.parametrize(
    ("name", "metrics", "text"),
    [
        ("forget_rows", {"forget_rows": 40.0}, "40"),
        ("model_utility", {"model_utility": 0.61375}, "0.614"),
        ("model_utility", {"model_utility": 0.0}, "0.000"),
        ("forget_quality", {"forget_quality": 0.0, "forget_quality_log10": -599.6}, "1e-600"),
        ("forget_quality", {"forget_quality": None}, "–"),
        ("forget_quality", {}, "–"),
        ("forget_quality_log10", {"forget_quality_log10": -20.74}, "-20.7"),
    ],
)
def test_written_values(name: str, metrics: dict[str, float | None], text: str) -> None:
    assert write_value(name, metrics) == text


def test_utility_kept() -> None:
    assert utility_kept({"model_utility": 0.5}, {"model_utility": 0.45}) == pytest.approx(0.9)
    assert utility_kept({"model_utility": 0.0}, {"model_utility": 0.45}) is None
    assert utility_kept(None, {"model_utility": 0.45}) is None
