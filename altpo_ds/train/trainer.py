"""The loop: pairs and retain rows through the policy, one optimizer step after the other."""

import logging
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from altpo_ds.alternates.refresh import Refresher
from altpo_ds.config.batch import Batch
from altpo_ds.config.errors import PREEMPTED, Stopped, UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.balance import balance_within, turns
from altpo_ds.data.batches import TrainBatch, examples, train_batch
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.stream import TrainStream
from altpo_ds.engine import checkpoints, preemption, roll_call
from altpo_ds.engine.distributed import World, gather_objects, sum_over_ranks
from altpo_ds.engine.parts import Put
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.objective.compose import SUMS, Scores, Totals, objective
from altpo_ds.objective.log_probs import response_sums
from altpo_ds.train.diagnosis import Scored, diagnose
from altpo_ds.train.reference import Reference

log = logging.getLogger(__name__)

Report = Callable[[int, dict[str, Any]], None]


@dataclass
class Trainer:
    """Everything a run needs, built elsewhere. `train` runs from `step` to `steps`."""

    config: RunConfig
    policy: PolicyEngine
    reference: Reference | None
    stream: TrainStream
    chat: ChatTokenizer
    batch: Batch
    steps: int
    rows_per_epoch: int
    world: World
    report: Report  # takes the metrics of a step, on rank 0
    evaluate: Callable[[int], None]
    saver: checkpoints.Saver
    side_files: Callable[[Path], None]  # writes the model's configuration and tokenizer into a checkpoint
    refresher: Refresher | None = None  # fresh alternates from the policy while it trains
    step: int = 0
    evaluated: int | None = None  # last step that was evaluated
    saved: int = 0  # last step that needs no saving any more
    skipped: int = 0  # steps without an update
    stalled: float = 0.0  # seconds that training stood still for checkpoints, not yet reported

    def train(self) -> None:
        """Trains to the last step, evaluating and saving on the way. Raises Stopped when a signal asks for it."""
        every = self.config.checkpoints.every
        self.evaluate_if_due()
        while self.step < self.steps:
            if status := preemption.agreed(self.world):
                self.stop(status)
            roll_call.at_step(self.step + 1)
            metrics = self.train_step()
            self.step += 1
            self._stall(self.saver.advance)
            if self.refresher is not None:
                self.refresher.after_step(self.step)
            last = self.step == self.steps
            if self.step % self.config.train.log_every == 0 or last:
                self.report(self.step, metrics | {"perf/checkpoint_s": self.stalled})
                self.stalled = 0.0
            self.evaluate_if_due()
            if last or (every and self.step % every == 0):
                self.save(wait=last or not self.config.checkpoints.asynchronous)

    def evaluate_if_due(self) -> None:
        """Evaluates; a signal ends that half-way, and the run evaluates this step when it continues."""
        every = self.config.train.evaluate_every
        if not every or self.evaluated == self.step or (self.step % every and self.step < self.steps):
            return
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        try:
            # Training draws the same numbers whether the evaluation was there, or there twice.
            with preemption.abandonable(), torch.random.fork_rng(devices):
                self.evaluate(self.step)
        except preemption.Abandoned as abandoned:
            self.stop(abandoned.status)
        self.evaluated = self.step

    def stop(self, status: int) -> NoReturn:
        """Saves what is not saved yet, and raises Stopped."""
        if self.saved < self.step:
            self.save()
        self.saver.finish()
        what = "preempted" if status == PREEMPTED else "interrupted"
        saved = f"at step {self.step}: checkpoint saved" if self.step else "before the first step"
        raise Stopped(f"{what} {saved}, start the same command again to continue", status)

    def train_step(self) -> dict[str, Any]:
        """One optimizer step over the global batch; the same metrics on every rank."""
        start, lr = time.perf_counter(), self.policy.lr
        batches = self.next_batches()
        totals, tokens = self._totals(batches)
        sums = torch.zeros(1 + len(SUMS), dtype=torch.float64, device=self.world.device)
        norm = None
        scored: list[Scored] = []
        for number, batch in enumerate(batches, 1):
            loss, parts, scores = self.loss(batch, totals)
            scored.append(scores)
            sums += torch.cat([loss.detach().double().reshape(1), parts])
            last = number == len(batches)
            if last:
                # A loss that is not finite on any rank makes all gradients NaN, of which no update comes.
                loss = loss * (1 + 0 * sum_over_ranks(sums)[0]).to(loss.dtype)
            self.policy.backward(loss, last)
            norm = self.policy.step()
        self._check(scored, float(sums[0]), norm, lr)
        seconds = time.perf_counter() - start
        return self._metrics(sums, tokens, norm, lr, seconds) | {"perf/passes": len(batches)}

    def loss(self, batch: TrainBatch, totals: Totals) -> tuple[Tensor, Tensor, Scored]:
        """The batch's share of the global loss, the sums of its diagnostics, and its log-probabilities: one policy
        forward pass.
        """
        kl = self.config.objective.retain_loss == "kl" and self.reference is not None
        tokens = torch.isin(batch.packed.response, batch.retain).nonzero()[:, 0] if kl else None
        log_probs, distribution = self.policy.forward(batch.packed, tokens)
        policy = response_sums(log_probs, batch.packed.response, len(batch.packed.counts))
        reference, reference_distribution = torch.zeros_like(policy.detach()), None
        if self.reference is not None:
            reference, reference_distribution = self.reference.scores(batch, tokens)
        scores = Scores(
            policy[batch.alternate],
            policy[batch.forget],
            policy[batch.retain],
            reference[batch.alternate],
            reference[batch.forget],
            distribution if kl else None,
            reference_distribution if kl else None,
        )
        return *objective(self.config.objective, scores, totals), Scored(batch, policy.detach(), reference)

    def next_batches(self) -> list[TrainBatch]:
        """The rank's micro-batches of the next global batch; all of them, on all ranks, have about as many tokens."""
        items = list(islice(self.stream, self.batch.micro * self.batch.accumulation))
        if self.refresher is not None:
            items = [self.refresher.replace(item) for item in items]
        shares = gather_objects([examples(self.chat, item) for item in items])
        pool = [example for turn in zip(*shares, strict=True) for item in turn for example in item]
        sizes = [example.tree.unique_tokens for example in pool]
        limit = self.config.train.micro_batch_tokens or math.inf
        groups = balance_within(sizes, self.world.size, self.batch.accumulation, limit)
        mine = turns(groups, self.world.rank, self.world.size)
        return [train_batch([pool[i] for i in group]).to(self.world.device) for group in mine]

    def _totals(self, batches: Sequence[TrainBatch]) -> tuple[Totals, dict[str, float]]:
        """Denominators of the global batch, and the tokens that it takes."""
        local = [
            sum(len(batch.alternate) for batch in batches),
            sum(batch.retain_tokens for batch in batches),
            sum(batch.unique_tokens for batch in batches),
            sum(batch.sequence_tokens for batch in batches),
        ]
        pairs, retain, unique, sequences = sum_over_ranks(torch.tensor(local, device=self.world.device)).tolist()
        return Totals(pairs, retain), {"perf/unique_tokens_per_s": unique, "perf/tokens_per_s": sequences}

    def _check(self, scored: list[Scored], loss: float, norm: float | None, lr: float) -> None:
        """Stops, or counts, a step of which no update came; UserError names its rows, on all ranks."""
        bad_norm = norm is not None and not math.isfinite(norm) and not self.policy.scales_loss
        if math.isfinite(loss) and not bad_norm:
            return
        train, step = self.config.train, self.step + 1
        values = {"loss": loss, "grad_norm": norm, "lr": lr}
        what = diagnose(Path(self.config.run_dir), step, scored, self.config.objective, self.world, values)
        if train.on_nonfinite == "stop":
            raise UserError(
                f"{what}; nothing was updated. Look at these rows, lower train.lr, or set train.on_nonfinite=skip; "
                "the last checkpoint is intact"
            )
        self.skipped += 1
        if self.skipped > train.max_skips:
            raise UserError(
                f"{what}; nothing was updated, and train.max_skips = {train.max_skips} steps were skipped before. "
                "Lower train.lr, or raise the limit; the last checkpoint is intact"
            )
        if self.world.is_main:
            log.warning("%s: skipped, %d of at most %d", what, self.skipped, train.max_skips)

    def _metrics(
        self, sums: Tensor, tokens: dict[str, float], norm: float | None, lr: float, seconds: float
    ) -> dict[str, Any]:
        names = ["loss", *SUMS] if self.reference is not None else ["loss"]
        values = dict(zip([f"train/{name}" for name in names], sums.tolist(), strict=False))
        seen = self.stream.items_seen
        return values | {
            "train/grad_norm": norm,
            "train/lr": lr,
            "train/skipped": self.skipped,
            "train/epoch": seen / self.rows_per_epoch,
            "data/forget_seen": seen,
            "perf/step_s": seconds,
            **{name: count / seconds for name, count in tokens.items()},
            "perf/peak_memory_gib": peak_memory_gib(self.world.device),
        }

    def save(self, wait: bool = True) -> None:
        """Writes a checkpoint of this step; it is complete when this returns, or without `wait` at a later step."""

        def write(folder: Path, put: Put) -> None:
            self.policy.save(folder, put)
            if self.refresher is not None:
                self.refresher.save(folder, put)
            if self.world.is_main:
                self.side_files(folder)

        counts = {"step": self.step, "evaluated": self.evaluated, "skipped": self.skipped}
        state = counts | {"seed": self.config.seed, "layout": self.policy.layout, "data": self.stream.state_dict()}
        self._stall(lambda: self.saver.save(self.step, write, state, wait=wait))
        self.saved = self.step

    def _stall(self, work: Callable[[], None]) -> None:
        start = time.perf_counter()
        work()
        self.stalled += time.perf_counter() - start

    def load(self, checkpoint: Path) -> None:
        """Continues from a checkpoint: weights, optimizer, schedule, random states, position in the data."""
        state = checkpoints.load(checkpoint, self.policy.load, self.world)
        if self.refresher is not None:
            self.refresher.load(checkpoint, same_layout=state["layout"] == self.policy.layout)
        self.step = self.saved = state["step"]
        self.evaluated, self.skipped = state["evaluated"], state["skipped"]
        self.stream.load_state_dict(state["data"])


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
