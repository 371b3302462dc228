"""The section `evaluate` of a run: which suites, on which rows, and what each suite needs."""

from typing import Any, Literal

from pydantic import Field

from altpo_ds.config.section import (
    Count,
    ModelPath,
    Natural,
    PerturbedSource,
    Positive,
    RetainSource,
    Section,
    ServerConfig,
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


class MuseConfig(Section):
    """Rows of MUSE's shape: question and answer for knowledge, prompt and continuation for verbatim, documents."""

    forget_verbatim: Source | None = Field(default=None, description="columns: question the prompt, answer the rest")
    retain_verbatim: Source | None = None
    forget_knowledge: Source | None = None
    retain_knowledge: Source | None = None
    forget_few_shot: Source | None = Field(default=None, description="answered questions shown before each question")
    retain_few_shot: Source | None = None
    forget_documents: RetainSource | None = Field(default=None, description="for privleak; name the column `text`")
    holdout_documents: RetainSource | None = None
    verbatim_tokens: Count = Field(default=128, description="tokens of a continuation")
    knowledge_tokens: Count = Field(default=32, description="tokens of an answer")
    document_tokens: Count = Field(default=2048, description="tokens of a document; the rest of it is left out")


class HarnessConfig(Section):
    """Tasks of lm-evaluation-harness (extra `harness`)."""

    tasks: list[str] = Field(default=[], description="names of tasks or groups")
    include_path: str | None = Field(default=None, description="folder with task files of your own")
    few_shot: Natural | None = Field(default=None, description="examples in a prompt; none: the task's own number")
    limit: Count | None = Field(default=None, description="rows of a task; none: all")
    batch_size: Count = 8


class RelearningConfig(Section):
    """Fine-tuning the unlearned model on a few forget rows: does the rest come back?"""

    rows: Count = Field(default=8, description="forget rows that the attacker has, the first ones")
    steps: Count = Field(default=20, description="optimizer steps over all of these rows")
    every: Count = Field(default=5, description="steps between points of the curve")
    lr: Positive = 2e-5


Suite = Literal["tofu", "quality", "privacy", "distribution", "muse", "harness", "relearning", "quantization"]

OWN_ROWS = {"muse", "harness"}
"""Suites that take no rows from evaluate.forget, evaluate.retain, ..."""


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
    muse: MuseConfig = MuseConfig()
    harness: HarnessConfig = HarnessConfig()
    relearning: RelearningConfig = RelearningConfig()
    quantization_bits: list[Literal[8, 4]] = Field(default=[8, 4], description="bits of a weight, each an attack")
    backend: Literal["transformers", "openai", "vllm"] = Field(
        default="transformers", description="what answers: the run's engine on all ranks, a server, vLLM in process"
    )
    server: ServerConfig = ServerConfig()
    vllm: dict[str, Any] = Field(default={}, description="arguments of vllm.LLM, such as tensor_parallel_size")
