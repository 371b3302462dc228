"""`python -m altpo_ds` and the installed `altpo-ds`."""

import os
import sys

from altpo_ds.engine import preemption

preemption.watch()  # before the heavy imports: a signal that comes first would kill

from altpo_ds.cli import main  # noqa: E402


def leave(status: int) -> None:
    """Ends the process. A rank ends at once: gloo's threads abort an interpreter that is still taking itself down."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def entry() -> None:
    """Runs the command line and leaves with its status."""
    leave(main())


if __name__ == "__main__":
    entry()
