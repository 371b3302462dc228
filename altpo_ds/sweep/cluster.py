"""The trials of a sweep as an array job on a Slurm cluster."""

from collections.abc import Sequence

from altpo_ds.config.files import project_folder
from altpo_ds.submit import sbatch
from altpo_ds.sweep.file import Sweep
from altpo_ds.sweep.study import trials


def submit(sweep: Sweep, target: str, options: Sequence[str]) -> str:
    """Submits an array job with a task for each trial; `target` is the sweep file, or the sweep's name at W&B."""
    script = project_folder("slurm") / "sweep.sbatch"
    number = sbatch([f"--array=0-{trials(sweep) - 1}", *options, str(script), target])
    return f"array job {number}: a task for each trial, at most {trials(sweep)}"
