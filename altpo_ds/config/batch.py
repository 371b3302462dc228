"""Batch arithmetic: micro x accumulation x world = global, and the optimizer steps of a run."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import TrainConfig


@dataclass(frozen=True)
class Batch:
    """Questions (finetune: rows) of one optimizer step: `micro` x `accumulation` x `world` = `global_`."""

    micro: int
    accumulation: int
    world: int
    global_: int

    def __str__(self) -> str:
        return f"micro {self.micro} x accumulation {self.accumulation} x ranks {self.world} = global {self.global_}"


def batch_arithmetic(train: TrainConfig, world_size: int) -> Batch:
    """The batch of a run on that many ranks; UserError, with numbers that work, where it cannot be."""
    micro, wanted, accumulation = (
        train.micro_batch_size,
        train.global_batch_size,
        train.gradient_accumulation_steps,
    )
    pass_size = micro * world_size
    if accumulation is None:
        if wanted % pass_size:
            raise UserError(
                f"train.global_batch_size = {wanted}: not a multiple of train.micro_batch_size {micro} "
                f"x {world_size} ranks; {_remedy(wanted, micro, world_size)}"
            )
        accumulation = wanted // pass_size
    elif pass_size * accumulation != wanted:
        raise UserError(
            f"train.gradient_accumulation_steps = {accumulation}: x train.micro_batch_size {micro} x {world_size} "
            f"ranks = {pass_size * accumulation}, not train.global_batch_size {wanted}; "
            f"set global_batch_size to {pass_size * accumulation}, or leave gradient_accumulation_steps out"
        )
    return Batch(micro, accumulation, world_size, wanted)


def total_steps(rows: int, batch: Batch, train: TrainConfig) -> int:
    """Optimizer steps of a run over `rows` questions (finetune: rows).

    Rows stream on from epoch to epoch without dropping any: ceil(epochs x rows / global). The last batch
    of the run is filled from the epoch that would follow. `train.max_steps` caps the number.
    """
    if rows < 1:
        raise UserError("no rows to train on")
    # of the decimal that the user wrote: 1.1 x 10 rows are 11 rows, not 11.000000000000002
    steps = ceil(Fraction(repr(train.epochs)) * rows / batch.global_)
    return steps if train.max_steps is None else min(steps, train.max_steps)


def _remedy(wanted: int, micro: int, world_size: int) -> str:
    below = wanted // (micro * world_size) * micro * world_size
    globals_ = [str(size) for size in (below, below + micro * world_size) if size]
    remedy = f"set global_batch_size to {' or '.join(globals_)}"
    if wanted % world_size == 0:
        share = wanted // world_size
        remedy += f", or micro_batch_size to a divisor of {share}" if share > 1 else ", or micro_batch_size to 1"
    return remedy
