"""DeepSpeed engines around scorers: the policy that learns, and the frozen reference."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from altpo_ds.config.schema import TrainConfig
from altpo_ds.data.trees import PackedTrees
from altpo_ds.engine import elastic, kernels, stage3
from altpo_ds.engine.distributed import World, together
from altpo_ds.engine.parts import Put
from altpo_ds.engine.scorer import SequenceScorer

log = logging.getLogger(__name__)

SHARDS = "zero"  # folder of a checkpoint with DeepSpeed's files

Schedule = Callable[[torch.optim.Optimizer], Any]


class Engine(Protocol):
    """What the trainer sees of a policy."""

    def forward(self, packed: PackedTrees, distribution: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
    def backward(self, loss: Tensor, last: bool = True) -> None: ...
    def step(self) -> float | None: ...
    def save(self, folder: Path, put: Put) -> None: ...
    def load(self, folder: Path, layout: dict[str, Any]) -> None: ...


class PolicyEngine:
    """A DeepSpeed engine whose `backward` takes a rank's share of the global loss and adds up, never averages."""

    def __init__(
        self, scorer: SequenceScorer, deepspeed: dict[str, Any], train: TrainConfig, schedule: Schedule, world: World
    ) -> None:
        self.world = world
        self.scorer = scorer
        # float16: DeepSpeed tries scales of the loss; that one is too large is no failure of the run.
        self.scales_loss: bool = deepspeed["fp16"]["enabled"]
        self._zero = deepspeed.get("zero_optimization", {})
        optimizer = build_optimizer(scorer, train, deepspeed, world.device)
        self._order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.engine = _initialize(scorer, deepspeed, optimizer, schedule(optimizer))
        # DeepSpeed would copy scripts into every checkpoint; `altpo-ds export` does their work.
        self.engine._copy_recovery_script = lambda save_path: None
        if world.size == 1:
            self._reduce_nothing()
        # transformers loads models in evaluation mode, in which neither dropout nor gradient checkpointing works.
        self.engine.train()

    def _reduce_nothing(self) -> None:
        """Alone, DeepSpeed would copy all gradients into buffers and back."""
        stage = self.engine.zero_optimization_stage()
        if stage == 0:
            self.engine.enable_backward_allreduce = False
        if stage == 3:
            stage3.reduce_nothing(self.engine.optimizer)

    def forward(self, packed: PackedTrees, distribution: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As SequenceScorer.forward."""
        return self.engine(packed, distribution)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """`last`: of the micro-batches of an optimizer step, whose number may differ from step to step."""
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over the ranks; the shares of the loss are to be summed.
        self.engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self) -> float | None:
        """Ends a micro-batch; after the last one updates the weights and returns the gradient norm.

        With a norm that is not finite nothing is updated: weights, optimizer and schedule stay as they are.
        """
        boundary = self.engine.is_gradient_accumulation_boundary()
        norm = self._stage0_norm() if boundary and self.engine.zero_optimization_stage() == 0 else None
        if norm is not None and not norm.isfinite():  # the ZeRO stages look for themselves
            self.engine.zero_grad()
            return float(norm)
        self.engine.step()
        if not boundary:
            return None
        return float(norm if norm is not None else self.engine.get_global_grad_norm() or 0.0)

    def _stage0_norm(self) -> Tensor | None:
        """Without ZeRO the engine keeps no norm; its averaged gradients are whole on every rank."""
        gradients = [p.grad for p in self.scorer.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else None

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.engine.optimizer.param_groups[0]["lr"]

    @property
    def layout(self) -> dict[str, Any]:
        """How weights and optimizer states lie in a checkpoint; as JSON knows it."""
        inner = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        return {"ranks": self.world.size, "optimizer": type(inner).__name__, "zero": self._zero}

    def save(self, folder: Path, put: Put) -> None:
        """Puts this rank's shards. All ranks call it together."""
        self.engine.checkpoint_engine.save = lambda state_dict, path: put(_plain(state_dict), Path(path))
        names = {parameter: name for name, parameter in self.scorer.named_parameters()}
        order = [names[parameter] for parameter in self._order]
        self.engine.save_checkpoint(str(folder), tag=SHARDS, client_state={elastic.NAMES: order}, save_latest=False)

    def load(self, folder: Path, layout: dict[str, Any]) -> None:
        """Continues from a checkpoint of that layout: to the bit where it is this engine's, else within rounding."""
        if layout == self.layout:
            self.engine.load_checkpoint(str(folder), tag=SHARDS)
            return
        with together():
            saved = elastic.read(folder / SHARDS)
        if self.world.is_main:
            log.warning("the checkpoint is of another number of ranks, ZeRO setting or optimizer: resharding it")
        elastic.restore(self.engine, saved)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The ZeRO stage as a number: early releases of Python 3.11 pickle an enum as a call of `getattr`, and
    checkpoints that call anything are refused.
    """
    optimizer = state.get("optimizer_state_dict") or {}
    if "zero_stage" not in optimizer:
        return state
    return state | {"optimizer_state_dict": optimizer | {"zero_stage": int(optimizer["zero_stage"])}}


class ReferenceEngine:
    """A frozen scorer under ZeRO-3, its parameters offloaded to the CPU."""

    def __init__(self, scorer: SequenceScorer, deepspeed: dict[str, Any]) -> None:
        self.scorer = scorer.requires_grad_(False)
        self.engine = _initialize(scorer, deepspeed, None, None)
        self.engine.eval()

    @torch.no_grad()
    def forward(self, packed: PackedTrees, distribution: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As SequenceScorer.forward, without gradients."""
        return self.engine(packed, distribution)


def _initialize(scorer: SequenceScorer, deepspeed: dict[str, Any], optimizer: Any, scheduler: Any) -> Any:
    import deepspeed as ds

    settings = stage3.by_layer(deepspeed, scorer.model)
    engine, *_ = ds.initialize(
        model=scorer, config=settings, optimizer=optimizer, lr_scheduler=scheduler, dist_init_required=False
    )
    return engine


def build_optimizer(
    scorer: SequenceScorer, train: TrainConfig, deepspeed: dict[str, Any], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW: DeepSpeed's own where the optimizer runs on the CPU, torch's elsewhere. Matrices alone decay."""
    decay: list[Tensor] = []
    keep: list[Tensor] = []
    for parameter in scorer.parameters():
        dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
        (decay if dimensions > 1 else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": train.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    offload = deepspeed.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
    if device.type == "cpu" or offload != "none":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        reason = kernels.build("CPUAdamBuilder")
        if reason is None:
            optimizer = DeepSpeedCPUAdam(groups, lr=train.lr, betas=train.betas, adamw_mode=True)
            optimizer.register_step_pre_hook(_forget_step)
            return optimizer
        log.warning("DeepSpeedCPUAdam cannot be built (%s); torch's AdamW is ten times slower here", reason)
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=device.type == "cuda")


def _forget_step(optimizer: Any, *_: Any) -> None:
    """Makes DeepSpeedCPUAdam compute beta ** step afresh: it multiplies on from the step before, which rounds
    differently from what a resumed run computes. A step far away from the next one does that.
    """
    far, (beta1, beta2) = 2**30, optimizer.param_groups[0]["betas"]
    nothing = [torch.zeros(1) for _ in range(4)]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, far, 0.0, beta1, beta2, 1.0, 0.0, True, *nothing)
