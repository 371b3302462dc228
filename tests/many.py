"""Runs several `altpo-ds` command lines in one process a rank, one after the other: imports cost more than tiny runs.

Usage: python -m tests.many FILE, a JSON list of argument lists. Stops at the first that fails.
"""

import json
import sys
from pathlib import Path

from altpo_ds.__main__ import leave
from altpo_ds.cli import main

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["altpo-ds", *arguments]
        if status := main():
            leave(status)
    leave(0)
