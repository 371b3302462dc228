"""Whether what a command needs is there, told in a second on one machine, before many begin to wait for it."""

from pathlib import Path

from altpo_ds.config.deepspeed import deepspeed_file
from altpo_ds.config.errors import UserError
from altpo_ds.config.require import (
    check_model_path,
    require_alternates,
    require_evaluate,
    require_finetune,
    require_unlearn,
)
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.section import Source
from altpo_ds.data.sources import files

REQUIRED = {
    "unlearn": require_unlearn,
    "finetune": require_finetune,
    "alternates": require_alternates,
    "evaluate": require_evaluate,
}
READ = {
    "unlearn": ("forget", "alternates", "retain"),
    "finetune": ("train",),
    "alternates": ("forget",),
    "evaluate": (),
}


def preflight(config: RunConfig, verb: str) -> None:
    """Looks for what `verb`, one of REQUIRED, needs: model, DeepSpeed files, data files.

    Raises UserError for the first that is absent.
    """
    REQUIRED[verb](config)
    if verb != "evaluate":  # which may look at another model, named beside the run or trained by it
        check_model_path(config.model.path)
    for name in (config.engine.deepspeed, config.reference.deepspeed):
        if name != "auto" and not deepspeed_file(name).is_file():
            raise UserError(f"DeepSpeed file '{name}' does not exist; check the path")
    for name in READ[verb]:
        if (source := getattr(config.data, name)) is not None:
            files(source)
    if verb == "evaluate" or (verb != "alternates" and config.train.evaluate_every):
        _check_evaluation(config)


def _check_evaluation(config: RunConfig) -> None:
    for _, value in (*config.evaluate, *config.evaluate.muse):
        if isinstance(value, Source):
            files(value)
    retain = config.evaluate.retain_reference
    if retain is not None and not Path(retain).is_file():
        raise UserError(f"evaluate.retain_reference '{retain}' does not exist; `altpo-ds evaluate` writes it")
