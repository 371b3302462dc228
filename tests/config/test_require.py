"""What each command needs of a run."""

from collections.abc import Callable
from typing import Any

import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.config.require import require_alternates, require_evaluate, require_finetune, require_unlearn
from altpo_ds.config.schema import RunConfig

ROWS = {"path": "rows.jsonl"}
UNLEARN = {"forget": ROWS, "alternates": ROWS, "retain": ROWS}


def run(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"run_dir": "r", "model": {"path": "m"}, **sections})


@pytest.mark.parametrize(
    ("require", "sections"),
    [
        (require_unlearn, {"data": UNLEARN}),
        (
            require_unlearn,
            {"data": {"forget": ROWS, "alternates": ROWS}, "objective": {"retain_loss": "none"}},
        ),
        (
            require_unlearn,
            {"data": UNLEARN, "objective": {"retain_loss": "kl"}, "reference": {"mode": "online"}},
        ),
        (require_finetune, {"data": {"train": ROWS}}),
        (require_finetune, {"data": {"train": ROWS}, "objective": {"name": "sft"}}),
        (require_alternates, {"data": {"forget": ROWS}}),
        (require_evaluate, {"evaluate": {"forget": ROWS}}),
    ],
)
def test_enough(require: Callable[[RunConfig], None], sections: dict[str, Any]) -> None:
    require(run(**sections))


@pytest.mark.parametrize(
    ("require", "sections", "expected"),
    [
        (require_unlearn, {}, "data.forget: missing; unlearn needs the rows to forget: set --data.forget.path=FILE"),
        (require_unlearn, {"data": {"forget": ROWS}}, "data.alternates: missing"),
        (
            require_unlearn,
            {"data": {"forget": ROWS, "alternates": ROWS}},
            "data.retain: missing; unlearn with objective.retain_loss = nll needs",
        ),
        (require_unlearn, {"data": {**UNLEARN, "retain_per_pair": 0}}, "data.retain_per_pair = 0: contradicts"),
        (
            require_unlearn,
            {"data": UNLEARN, "objective": {"retain_loss": "kl"}},
            "reference.mode = cached: contradicts objective.retain_loss = kl",
        ),
        (require_unlearn, {"data": UNLEARN, "objective": {"name": "sft"}}, "objective.name = sft: unlearn needs altpo"),
        (require_finetune, {"data": UNLEARN}, "data.train: missing; finetune needs"),
        *(
            (
                require,
                {"data": {"max_tokens": 600}, "train": {"micro_batch_tokens": 599}},
                "train.micro_batch_tokens = 599: a row may take data.max_tokens = 600 of them; raise it to 600",
            )
            for require in (require_unlearn, require_finetune)
        ),
        (require_alternates, {}, "data.forget: missing; alternates needs"),
        (require_evaluate, {"data": UNLEARN}, "evaluate.forget: missing; evaluate needs"),
    ],
)
def test_the_missing_key_is_named(
    require: Callable[[RunConfig], None], sections: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        require(run(**sections))
    assert str(caught.value).startswith(expected)
