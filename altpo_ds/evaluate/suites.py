"""The suites by name: each takes the evaluation's context and gives a Result, the same on every rank."""

from collections.abc import Callable

from altpo_ds.config.evaluation import OWN_ROWS
from altpo_ds.evaluate.attacks import quantization, relearning
from altpo_ds.evaluate.context import Context, by_split
from altpo_ds.evaluate.distribution import distribution
from altpo_ds.evaluate.harness import harness
from altpo_ds.evaluate.muse import muse
from altpo_ds.evaluate.privacy import privacy
from altpo_ds.evaluate.quality import quality
from altpo_ds.evaluate.result import Result
from altpo_ds.evaluate.tofu import tofu

Suite = Callable[[Context], Result]


SUITES: dict[str, Suite] = {
    "tofu": tofu,
    "quality": quality,
    "privacy": privacy,
    "distribution": distribution,
    "muse": muse,
    "harness": harness,
    "relearning": relearning,
    "quantization": quantization,
}


def run_suites(context: Context) -> Result:
    """All suites of the run, in the order named, as one result."""
    result = Result()
    if set(context.settings.suite) - OWN_ROWS:
        rows = [{"question": example.row.question, "answer": example.row.answer} for example in context.examples]
        for split, of_split in by_split(context.examples, rows).items():
            result.columns(split, of_split)
    for name in context.settings.suite:
        result.add(SUITES[name](context))
    return result
