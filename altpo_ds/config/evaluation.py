"""The section `evaluate` of a run: which suites, on which rows, and what each suite needs."""

from typing import Literal

from pydantic import Field

from altpo_ds.config.section import (
    Count,
    ModelPath,
    PerturbedSource,
    Section,
    Source,
)


class ClassifierConfig(Section):
    """The judge of text cleanness: any sequence classification model, or the embedded one."""

    path: ModelPath | None = Field(
        default=None, description="Hugging Face directory or hub name; none: the embedded classifier"
    )
    label: str = Field(default="clean", description="the label whose probability is the cleanness of a text")
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_tokens: Count = Field(default=256, description="a longer text is cut for the classifier")


Suite = Literal["tofu", "quality", "privacy", "distribution"]


class EvaluateConfig(Section):
    suite: list[Suite] = Field(default=["tofu"], description="what to measure")
    dialect: Literal["altpo", "tofu_trainer", "openunlearning"] = "altpo"
    forget: PerturbedSource | None = None
    retain: PerturbedSource | None = None
    real_authors: PerturbedSource | None = None
    world_facts: PerturbedSource | None = None
    holdout: Source | None = Field(default=None, description="rows like the forget ones that no model has seen")
    retain_reference: str | None = Field(default=None, description="evaluation.json of the retain model")
    retain_model: ModelPath | None = Field(default=None, description="the retain model itself, for `distribution`")
    max_rows: Count | None = Field(default=None, description="rows of a split; none: the dialect's own limit")
    max_length: Count = Field(
        default=200, description="generation limit: prompt and answer (openunlearning: answer alone)"
    )
    batch_tokens: Count = Field(default=8192, description="tokens of a rank in one pass")
    samples: Count = Field(default=5, description="sampled answers to a question, beside the greedy one")
    classifier: ClassifierConfig = ClassifierConfig()
