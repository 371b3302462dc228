"""micro x accumulation x world = global, and the steps of a run."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.batch import Batch, batch_arithmetic, total_steps
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import TrainConfig

count = st.integers(min_value=1, max_value=64)


@given(count, count, count)
def test_the_product_is_the_global_batch_whether_accumulation_is_given_or_not(
    micro: int, accumulation: int, world: int
) -> None:
    product = micro * accumulation * world
    expected = Batch(micro, accumulation, world, product)
    for given_accumulation in (accumulation, None):
        train = TrainConfig(
            micro_batch_size=micro, global_batch_size=product, gradient_accumulation_steps=given_accumulation
        )
        assert batch_arithmetic(train, world) == expected


@pytest.mark.parametrize(
    ("micro", "global_", "world", "remedy"),
    [
        (1, 7, 2, "set global_batch_size to 6 or 8"),
        (1, 3, 4, "set global_batch_size to 4"),
        (4, 6, 2, "set global_batch_size to 8, or micro_batch_size to a divisor of 3"),
        (2, 4, 4, "set global_batch_size to 8, or micro_batch_size to 1"),
    ],
)
def test_a_contradiction_names_numbers_that_work(micro: int, global_: int, world: int, remedy: str) -> None:
    train = TrainConfig(micro_batch_size=micro, global_batch_size=global_)
    with pytest.raises(UserError) as caught:
        batch_arithmetic(train, world)
    message = str(caught.value)
    assert f"train.global_batch_size = {global_}" in message
    assert message.endswith(remedy)


def test_an_accumulation_that_does_not_fit_is_refused_with_both_ways_out() -> None:
    train = TrainConfig(micro_batch_size=2, gradient_accumulation_steps=3, global_batch_size=7)
    with pytest.raises(UserError, match=r"= 12, not train.global_batch_size 7; set global_batch_size to 12, or leave"):
        batch_arithmetic(train, 2)


@pytest.mark.parametrize(
    ("rows", "global_", "epochs", "max_steps", "steps"),
    [
        (50, 7, 2, None, 15),  # 100 rows in batches of 7: 14 full ones and the rest
        (49, 7, 2, None, 14),
        (5, 8, 1, None, 1),  # fewer rows than a batch: the following epochs fill it
        (10, 1, 1.1, None, 11),  # not 12, as floats would have it
        (10, 4, 0.5, None, 2),
        (50, 7, 2, 3, 3),
        (50, 7, 2, 99, 15),
    ],
)
def test_steps_by_hand(rows: int, global_: int, epochs: float, max_steps: int | None, steps: int) -> None:
    train = TrainConfig(epochs=epochs, max_steps=max_steps, global_batch_size=global_)
    assert total_steps(rows, batch_arithmetic(train, 1), train) == steps


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 20))
def test_steps_cover_every_row_of_every_epoch_and_less_than_one_batch_more(
    rows: int, global_: int, epochs: int
) -> None:
    train = TrainConfig(epochs=epochs, global_batch_size=global_)
    steps = total_steps(rows, batch_arithmetic(train, 1), train)
    assert 0 <= steps * global_ - epochs * rows < global_
    assert steps == ceil(epochs * rows / global_)


def test_no_rows_are_an_error() -> None:
    with pytest.raises(UserError, match="no rows"):
        total_steps(0, Batch(1, 1, 1, 1), TrainConfig(global_batch_size=1))
