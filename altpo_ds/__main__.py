"""`python -m altpo_ds` is `altpo-ds`."""

import sys

from altpo_ds.cli import main

sys.exit(main())
