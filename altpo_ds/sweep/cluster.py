"""The trials of a sweep as an array job on a Slurm cluster."""

from collections.abc import Sequence

from altpo_ds.config.files import project_folder
from altpo_ds.submit import sbatch
from altpo_ds.sweep.file import Sweep
from altpo_ds.sweep.online import create
from altpo_ds.sweep.study import trials


def submit(sweep: Sweep, offline: bool, options: Sequence[str]) -> str:
    """Submits a task for each trial, of the sweep file or of a sweep that it creates at W&B; returns what to tell."""
    array = f"--array=0-{trials(sweep) - 1}"
    target = str(sweep.path) if offline else create(sweep)
    number = sbatch([array, *options, str(project_folder("slurm") / "sweep.sbatch"), target])
    return f"array job {number}: the trials of {target}, a task each"
