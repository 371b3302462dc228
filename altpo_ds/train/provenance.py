"""What a run was made of: enough to repeat it, nothing secret."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from altpo_ds.config.files import write_whole
from altpo_ds.config.schema import RunConfig
from altpo_ds.config.secrets import hidden
from altpo_ds.data.check import LISTED
from altpo_ds.data.sources import describe
from altpo_ds.data.stream import Rows
from altpo_ds.engine.distributed import World

PACKAGES = ("altpo_ds", "torch", "deepspeed", "transformers", "datasets", "wandb")
SOURCES = ("forget", "alternates", "retain", "train")


def write_provenance(config: RunConfig, rows: Rows, steps: int, world: World) -> None:
    """provenance.json of the run directory: the command, versions, data, rows and optimizer steps."""
    named = {name: getattr(config.data, name) for name in SOURCES}
    contents: dict[str, Any] = {
        "command": [hidden(word) for word in sys.argv],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "world_size": world.size,
        "steps": steps,
        "device": str(world.device),
        "data": {name: describe(source) for name, source in named.items() if source is not None},
        "rows": {"forget": rows.forget, "retain": rows.retain, "skipped": len(rows.skipped)},
        "skipped": [str(place) for place in sorted(rows.skipped)[:LISTED]],
    }
    write_whole(Path(config.run_dir) / "provenance.json", json.dumps(contents, indent=1))


def _git_commit() -> str | None:
    """The commit of the checkout that holds the package, if it lies in one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
