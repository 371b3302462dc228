"""What to look at when the numbers of a step go bad: every row of the global batch with its log-probabilities."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from altpo_ds.config.files import write_whole
from altpo_ds.config.schema import ObjectiveConfig
from altpo_ds.data.batches import TrainBatch
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.objective.losses import preference_losses

NAMED = 5  # rows in the message; the file has all


@dataclass(frozen=True)
class Scored:
    """A micro-batch with the log-probabilities (R,) of its responses."""

    batch: TrainBatch
    policy: Tensor
    reference: Tensor


def diagnose(
    run_dir: Path,
    step: int,
    scored: Sequence[Scored],
    objective: ObjectiveConfig,
    world: World,
    values: dict[str, float | None],
) -> str:
    """Writes diagnosis-step-N.json and returns what is wrong in one line. All ranks call it together.

    `values` are those of the whole step. No text of a row is written: its file and number lead there.
    """
    rows = [row for each in scored for row in _rows(each, objective)]
    ranks = [{"rank": rank, "rows": rows} for rank, rows in enumerate(gather_objects(rows))]
    file = run_dir / f"diagnosis-step-{step}.json"
    if world.is_main:
        content = _plain({"step": step, **values, "ranks": ranks})
        write_whole(file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    every = [(rank["rank"], row) for rank in ranks for row in rank["rows"]]
    bad = [(rank, row) for rank, row in every if not _finite(row)]
    what = "loss" if bad else "gradient"  # which all rows of the step make together
    places = list(dict.fromkeys(f"{row['file']} row {row['row']} on rank {rank}" for rank, row in bad or every))
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"the {what} of step {step} is not finite: {', '.join(places[:NAMED])}{more} ({file})"


def _rows(scored: Scored, objective: ObjectiveConfig) -> Iterator[dict[str, Any]]:
    """Rows in the order in which `train_batch` packs them."""
    policy, reference = scored.policy.tolist(), scored.reference.tolist()
    retained, pairs = set(scored.batch.retain.tolist()), iter(_pair_losses(scored, objective))
    first = 0  # of the tree's responses
    for place, tree in zip(scored.batch.places, scored.batch.trees, strict=True):
        scores = [
            {"log_prob": policy[response], "reference_log_prob": reference[response]}
            for response in range(first, first + len(tree.responses))
        ]
        row = {"file": place.file, "row": place.row, **scores[0]}
        if first in retained:
            yield {"kind": "retain", **row, "loss": -policy[first]}
        else:
            yield {"kind": "forget", **row, "alternates": [pair | {"loss": next(pairs)} for pair in scores[1:]]}
        first += len(tree.responses)


def _pair_losses(scored: Scored, objective: ObjectiveConfig) -> list[float]:
    """Preference loss of each pair."""
    alternate, forget = scored.batch.alternate, scored.batch.forget
    arguments = (scored.policy[alternate], scored.policy[forget], scored.reference[alternate], scored.reference[forget])
    return preference_losses(*arguments, objective.beta, objective.scale or 2 / objective.beta)[0].tolist()


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite: "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value if _finite(value) else str(value)
