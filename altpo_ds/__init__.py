"""altpo_ds: unlearning by alternate preference optimization under DeepSpeed ZeRO-3."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altpo_ds.alternates.run import generate_alternates
    from altpo_ds.config.load import load_config
    from altpo_ds.config.schema import RunConfig
    from altpo_ds.evaluate.run import evaluate
    from altpo_ds.objective.losses import altpo_loss
    from altpo_ds.train.run import unlearn
    from altpo_ds.train.trainer import Trainer

__all__ = ["RunConfig", "Trainer", "altpo_loss", "evaluate", "generate_alternates", "load_config", "unlearn"]

_HOME = {
    "RunConfig": "config.schema",
    "Trainer": "train.trainer",
    "altpo_loss": "objective.losses",
    "generate_alternates": "alternates.run",
    "load_config": "config.load",
    "unlearn": "train.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch and deepspeed stay out of `import altpo_ds`."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "evaluate":  # the room itself, which can be called
        return import_module(f"{__name__}.evaluate")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
