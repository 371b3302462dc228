"""A sweep through W&B's server: created once, its trials run by W&B's own agents."""

from altpo_ds.config.errors import UserError
from altpo_ds.config.sources import read_yaml
from altpo_ds.sweep.file import Sweep


def create(sweep: Sweep) -> str:
    """Creates the sweep as `wandb sweep` does; returns its name, ENTITY/PROJECT/ID."""
    import wandb

    if not wandb.login(prompt=False):
        raise UserError("no W&B key here: `wandb login` first, or run the sweep with --offline")
    project = sweep.file.project or sweep.run.tracking.project
    name = wandb.sweep(read_yaml(sweep.path, "a sweep"), entity=sweep.file.entity, project=project)
    settings = wandb.Api().settings
    return "/".join([*filter(None, (settings["entity"],)), settings["project"] or project, name])


def run_agent(name: str, count: int | None) -> None:
    """Runs trials of a sweep until its server has no more, or `count` of them."""
    import wandb

    wandb.agent(name, count=count)
