"""Metrics as pure functions, the suites that compute them over the ranks, and the report.

The room is also the public function: `altpo_ds.evaluate(config)` is `altpo_ds.evaluate.run.evaluate(config)`.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A module that can be called: the package's public name for the function is the room's own name."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        from altpo_ds.evaluate.run import evaluate

        return evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _Room
