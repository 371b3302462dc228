"""What each command needs of a run: a file that serves `evaluate` alone may leave out the rows of `unlearn`."""

from pathlib import Path

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import OWN_ROWS
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.section import Source


def require_unlearn(config: RunConfig) -> None:
    """Forget rows, alternates, and retain rows unless there is no retain loss."""
    if config.objective.name != "altpo":
        raise UserError(f"objective.name = {config.objective.name}: unlearn needs altpo; sft is for finetune")
    if config.alternates.refresh_every and config.reference.mode != "online":
        raise UserError(
            f"reference.mode = {config.reference.mode}: contradicts alternates.refresh_every, for no cache holds the "
            "log-probabilities of fresh alternates; set --reference.mode=online"
        )
    _require_room(config)
    _require(config.data.forget, "data.forget", "unlearn", "the rows to forget")
    _require(config.data.alternates, "data.alternates", "unlearn", "the answers in place of the forgotten ones")
    if config.objective.retain_loss == "none":
        return
    loss = f"objective.retain_loss = {config.objective.retain_loss}"
    _require(config.data.retain, "data.retain", f"unlearn with {loss}", "the rows to keep")
    if config.data.retain_per_pair == 0:
        raise UserError(f"data.retain_per_pair = 0: contradicts {loss}; set it to 1 or more, or the loss to none")
    if config.objective.retain_loss == "kl" and config.reference.mode != "online":
        raise UserError(
            f"reference.mode = {config.reference.mode}: contradicts {loss}, which compares whole distributions; "
            "set --reference.mode=online"
        )


def require_finetune(config: RunConfig) -> None:
    _require_room(config)
    _require(config.data.train, "data.train", "finetune", "the rows to train on")


def require_alternates(config: RunConfig) -> None:
    _require(config.data.forget, "data.forget", "alternates", "the questions to answer anew")


def require_evaluate(config: RunConfig) -> None:
    """What each suite cannot do without."""
    evaluate = config.evaluate
    if set(evaluate.suite) - OWN_ROWS:
        _require(evaluate.forget, "evaluate.forget", "evaluate", "the forget rows with perturbed answers")
    if "muse" in evaluate.suite and not any(isinstance(source, Source) for _, source in evaluate.muse):
        raise UserError(
            "evaluate.muse: no rows; the suite muse needs them: set --evaluate.muse.forget_verbatim.path=FILE"
        )
    if "harness" in evaluate.suite and not evaluate.harness.tasks:
        raise UserError(
            "evaluate.harness.tasks: empty; the suite harness needs names: set --evaluate.harness.tasks=[mmlu]"
        )


def check_model_path(path: str) -> None:
    """UserError for a path that looks local and is no model directory."""
    folder = Path(path)
    looks_local = path.startswith(("/", "./", "../", "~")) or path.count("/") != 1 or folder.exists()
    if looks_local and not (folder / "config.json").is_file():
        raise UserError(f"'{path}' is no model directory (no config.json); give a Hugging Face directory or a hub name")


def _require_room(config: RunConfig) -> None:
    tokens, longest = config.train.micro_batch_tokens, config.data.max_tokens
    if tokens is not None and tokens < longest:
        raise UserError(
            f"train.micro_batch_tokens = {tokens}: a row may take data.max_tokens = {longest} of them; "
            f"raise it to {longest}, or lower data.max_tokens"
        )


def _require(value: object, key: str, command: str, meaning: str) -> None:
    if value is None:
        raise UserError(f"{key}: missing; {command} needs {meaning}: set --{key}.path=FILE")
