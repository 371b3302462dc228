"""What a step moves between two ranks, as DeepSpeed's communication logger counts it."""

from pathlib import Path

import pytest

from benchmarks.plan import in_processes, make_model


@pytest.mark.slow
def test_one_gather_forward_and_one_backward_and_one_reduction(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", 64, 2, 96, 200)
    # limits of 0: nothing stays gathered from the forward to the backward pass, as in a large model
    counted = in_processes("benchmarks.traffic", 2, "--worker", model, str(tmp_path), "--released")
    assert counted["gathers_of_all"] == pytest.approx(2.0)
    assert counted["reductions_of_all"] == pytest.approx(1.0)
