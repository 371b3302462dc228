"""Engines from a run: the one place that turns its sections into policy, reference and evaluation engines."""

from typing import Any

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed import deepspeed_dict
from altpo_ds.config.schema import RunConfig
from altpo_ds.engine.distributed import World
from altpo_ds.engine.models import load_scorer
from altpo_ds.engine.zero import PolicyEngine, ReferenceEngine, Schedule


def policy_engine(config: RunConfig, batch: Batch, steps: int, world: World) -> PolicyEngine:
    """The model that learns, with AdamW and the run's learning-rate schedule over `steps` optimizer steps."""
    settings = deepspeed_dict(config, batch, has_gpu=world.device.type == "cuda")
    scorer = load_scorer(config.model.path, config.model, settings, world.device)
    return PolicyEngine(scorer, settings, config.train, _schedule(config, steps), world)


def reference_engine(config: RunConfig, path: str, world: World) -> ReferenceEngine:
    """A frozen model under the run's reference file: for log-probabilities, evaluation and sampling."""
    # It never trains: its batch is one row a rank, whatever the run's arithmetic.
    batch = Batch(1, 1, world.size, world.size)
    settings = deepspeed_dict(config, batch, has_gpu=world.device.type == "cuda", reference=True)
    model = config.model.model_copy(update={"gradient_checkpointing": False})
    return ReferenceEngine(load_scorer(path, model, settings, world.device), settings)


def _schedule(config: RunConfig, steps: int) -> Schedule:
    from transformers import get_scheduler

    warmup = round(config.train.warmup * steps)

    def schedule(optimizer: Any) -> Any:
        return get_scheduler(config.train.scheduler, optimizer, warmup, steps)

    return schedule
