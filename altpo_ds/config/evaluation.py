"""The section `evaluate` of a run: which suites, on which rows, and what each suite needs."""

from typing import Literal

from pydantic import Field

from altpo_ds.config.section import (
    Count,
    PerturbedSource,
    Section,
    Source,
)

Suite = Literal["tofu", "privacy"]


class EvaluateConfig(Section):
    suite: list[Suite] = Field(default=["tofu"], description="what to measure")
    dialect: Literal["altpo", "tofu_trainer", "openunlearning"] = "altpo"
    forget: PerturbedSource | None = None
    retain: PerturbedSource | None = None
    real_authors: PerturbedSource | None = None
    world_facts: PerturbedSource | None = None
    holdout: Source | None = Field(default=None, description="rows like the forget ones that no model has seen")
    retain_reference: str | None = Field(default=None, description="evaluation.json of the retain model")
    max_rows: Count | None = Field(default=None, description="rows of a split; none: the dialect's own limit")
    max_length: Count = Field(
        default=200, description="generation limit: prompt and answer (openunlearning: answer alone)"
    )
    batch_tokens: Count = Field(default=8192, description="tokens of a rank in one pass")
