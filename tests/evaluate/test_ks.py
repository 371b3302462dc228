"""What a KS test can see with so many rows."""

import pytest
from scipy.stats import ks_2samp

from altpo_ds.evaluate.ks import FEW, detectable_gap, few_rows


@pytest.mark.parametrize("rows", [5, 12, 40, 100])
def test_the_detectable_gap_is_the_first_that_is_significant(rows: int) -> None:
    """Two samples of which one is the other moved up by h places have a KS statistic of h / rows."""

    def pvalue(h: int) -> float:
        return float(ks_2samp(list(range(rows)), [i + h - 0.5 for i in range(rows)], method="exact")[1])  # pyright: ignore[reportArgumentType, reportIndexIssue]

    h = round(detectable_gap(rows) * rows)
    assert pvalue(h) <= 0.05 < pvalue(h - 1)


def test_few_rows_are_said_to_prove_little() -> None:
    assert few_rows(300) is None
    assert detectable_gap(300) < FEW
    note = few_rows(12)
    assert note is not None
    assert "n = 12" in note
    assert "KS statistic of 0.58" in note
    assert "no difference could show" in str(few_rows(3))
