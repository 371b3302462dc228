"""A run as strict, frozen models: every key that a run file may hold, with its meaning and default."""

import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _not_a_bool(value: Any) -> Any:
    """Python counts true as 1; a run file that says so is mistaken."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


NUMBER = BeforeValidator(_not_a_bool)
Positive = Annotated[float, Field(gt=0), NUMBER]
NonNegative = Annotated[float, Field(ge=0), NUMBER]
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
ShareAboveZero = Annotated[float, Field(gt=0, le=1), NUMBER]
Decay = Annotated[float, Field(ge=0, lt=1), NUMBER]
Count = Annotated[int, Field(ge=1), NUMBER]
Natural = Annotated[int, Field(ge=0), NUMBER]
ModelPath = Annotated[str, AfterValidator(os.path.expanduser)]  # a shell leaves ~ alone behind --model.path=


def _with_variables(path: str) -> str:
    """A sweep's trials share a file and differ in the environment: no shell stands between agent and run."""
    expanded = os.path.expandvars(path)
    if missing := re.search(r"\$\{?\w+", expanded):
        raise ValueError(f"names the environment variable {missing[0].lstrip('${')}, which is not set")
    return expanded


RunDir = Annotated[str, AfterValidator(os.path.expanduser), AfterValidator(_with_variables)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """No path, name or text can hold one."""
        if any(isinstance(part, str) and "\0" in part for part in (value if isinstance(value, list) else [value])):
            raise ValueError("must hold no NUL character")
        return value


class Source(Section):
    """Rows: local files (JSONL, JSON, Parquet, Arrow, CSV, also compressed) or a hub dataset."""

    path: str | list[str] = Field(description="file, list of files, glob pattern, or the name of a hub dataset")
    name: str | None = Field(default=None, description="configuration of a hub dataset")
    split: str = Field(default="train", description="split of a hub dataset")
    question: str = Field(default="question", description="column of the question")
    answer: str = Field(default="answer", description="column of the answer")


class AlternatesSource(Source):
    """Alternates, one row per question (a list) or one row per alternate (a string)."""

    alternates: str = Field(default="alternates", description="column of the list of alternates")
    alternate: str = Field(default="sub_answer", description="column of the single alternate, in the long form")


class RetainSource(Source):
    """Question and answer rows, or plain documents."""

    text: str | None = Field(default=None, description="column of a plain document, instead of question and answer")


class PerturbedSource(Source):
    """Evaluation rows; the columns of paraphrase and perturbed answers may be absent where a suite allows it."""

    paraphrased_answer: str = "paraphrased_answer"
    perturbed_answer: str = "perturbed_answer"


class ModelConfig(Section):
    path: ModelPath = Field(description="Hugging Face model directory or hub name")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on GPUs, float32 on CPUs"
    )
    attention: Literal["auto", "tree", "flex", "padded"] = Field(
        default="auto",
        description="prefix trees in a packed row, attended to one by one (tree) or by one FlexAttention (flex); "
        "padded: one padded row per response; auto: flex on GPUs, tree elsewhere",
    )
    gradient_checkpointing: bool = False


class ReferenceConfig(Section):
    path: ModelPath | None = Field(default=None, description="model of the frozen reference; none: model.path")
    mode: Literal["cached", "online"] = Field(
        default="cached", description="cached: log-probabilities once, kept on disk; online: an engine in every step"
    )
    deepspeed: str = Field(default="reference", description="DeepSpeed file of the reference engine, by name or path")


class DataConfig(Section):
    forget: Source | None = None
    alternates: AlternatesSource | None = None
    retain: RetainSource | None = None
    train: RetainSource | None = Field(default=None, description="rows that `finetune` trains on")
    alternates_per_question: Count = Field(default=5, description="k: alternates that each question is paired with")
    retain_per_pair: Natural = Field(default=1, description="retain rows beside each (alternate, forget) pair")
    system_prompt: str | None = Field(default=None, description="system message of the chat template")
    max_tokens: Count = Field(default=512, description="longest prompt + response; a longer row is an error")
    shuffle_buffer: Natural = Field(default=10_000, description="rows of the shuffle buffer; 0: file order")
    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="broken rows: stop, or skip, count and list them"
    )


class ObjectiveConfig(Section):
    name: Literal["altpo", "sft"] = "altpo"
    beta: Positive = 0.1
    scale: Positive | None = Field(default=None, description="factor of the preference loss; none: 2 / beta")
    forget_weight: NonNegative = 1.0
    retain_weight: NonNegative = 1.0
    retain_loss: Literal["nll", "kl", "none"] = "nll"


class TrainConfig(Section):
    epochs: Positive = 2
    max_steps: Count | None = Field(default=None, description="stop after that many optimizer steps")
    global_batch_size: Count = Field(
        default=7, description="questions (finetune: rows) in an optimizer step, over all ranks"
    )
    micro_batch_size: Count = Field(default=1, description="questions (finetune: rows) of a rank in one forward pass")
    gradient_accumulation_steps: Count | None = Field(
        default=None, description="none: global_batch_size / (micro_batch_size x ranks)"
    )
    lr: Positive = 5e-5
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = Field(default=0.5, description="share of the optimizer steps with rising learning rate")
    weight_decay: NonNegative = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    max_grad_norm: Positive | None = 1.0
    log_every: Count = 1
    evaluate_every: Natural = Field(
        default=0, description="optimizer steps between evaluations; 0: none during training"
    )


class CheckpointsConfig(Section):
    every: Natural = Field(default=0, description="optimizer steps between checkpoints; 0: only the last step")
    keep: Count = Field(default=2, description="checkpoints kept, the newest ones")


class EngineConfig(Section):
    deepspeed: str = Field(
        default="auto", description="file in ds_configs/ by name, or a path; auto: zero3, or zero3_cpu"
    )
    timeout: Positive = Field(default=1800, description="seconds that a collective operation may take")


class ServerConfig(Section):
    """A server with OpenAI's interface; its key, if any, is read from the variable OPENAI_API_KEY."""

    url: str = Field(default="http://localhost:8000/v1", description="address up to and with /v1")
    model: str | None = Field(default=None, description="name on the server; none: the only one that it serves")
    concurrency: Count = Field(default=16, description="requests under way at the same time")
    timeout: Positive = Field(default=120, description="seconds that a request may take")
    retries: Natural = Field(default=6, description="further tries of a request, each after a longer wait")
    body: dict[str, Any] = Field(default={}, description="further fields of each request, such as top_k")


class AlternatesConfig(Section):
    out: str | None = Field(default=None, description="file to write; none: alternates.jsonl in the run directory")
    count: Count = Field(default=5, description="alternates wanted for each question")
    seeds: list[Natural] = Field(default=[], description="a file for each seed, with its seed in the name; none: one")
    prompt: str = Field(default="chat", description="prompt template by name, or the path of a template of your own")
    temperature: Positive = 1.0
    top_p: ShareAboveZero = 1.0
    max_new_tokens: Count = 200
    batch_size: Count = Field(default=8, description="questions of a rank sampled together")
    attempts: Count = Field(default=4, description="rounds of sampling for a question that is short of alternates")
    min_rouge: Share = Field(default=0.1, description="ROUGE-L to the answer below this: too far")
    max_rouge: Share = Field(default=0.95, description="ROUGE-L to the answer above this: too similar")
    max_leak: Share = Field(
        default=0.5, description="share of the answer's distinctive words in an alternate above this: a leak; 1: off"
    )
    judge: Literal["none", "self"] = Field(
        default="none", description="self: the model rates its candidates, and the best `count` stay"
    )
    candidates: Count | None = Field(default=None, description="candidates for the judge; none: twice `count`")
    backend: Literal["transformers", "openai", "vllm"] = Field(
        default="transformers", description="what samples: the run's engine on all ranks, a server, vLLM in process"
    )
    server: ServerConfig = ServerConfig()
    vllm: dict[str, Any] = Field(default={}, description="arguments of vllm.LLM, such as tensor_parallel_size")
    shard: Natural = Field(default=0, description="which of the `shards` this start writes (a task of a job array)")
    shards: Count = Field(default=1, description="starts that share out the questions; the last one merges")
    refresh_every: Natural = Field(
        default=0, description="optimizer steps between fresh alternates from the policy in training; 0: never"
    )
    refresh_average: Decay = Field(
        default=0.0, description="decay of the moving average of the policy that samples; 0: the policy itself"
    )
    buffer_size: Count = Field(default=2000, description="fresh alternates kept, the newest ones")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_rouge >= self.max_rouge:
            raise ValueError(f"min_rouge {self.min_rouge} must be below max_rouge {self.max_rouge}")
        if self.shard >= self.shards:
            raise ValueError(f"shard {self.shard} must be below shards {self.shards}; the first one is 0")
        if self.candidates is not None and (self.judge == "none" or self.candidates < self.count):
            raise ValueError(f"candidates {self.candidates} must be at least count {self.count}, and judge self")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} must differ")
        return self

    @property
    def wanted(self) -> int:
        """Acceptable samples to draw for each question."""
        return self.count if self.judge == "none" else self.candidates or 2 * self.count


class EvaluateConfig(Section):
    suite: list[Literal["tofu"]] = ["tofu"]
    dialect: Literal["altpo", "tofu_trainer", "openunlearning"] = "altpo"
    forget: PerturbedSource | None = None
    retain: PerturbedSource | None = None
    real_authors: PerturbedSource | None = None
    world_facts: PerturbedSource | None = None
    retain_reference: str | None = Field(default=None, description="evaluation.json of the retain model")
    max_rows: Count | None = Field(default=None, description="rows of a split; none: the dialect's own limit")
    max_length: Count = Field(
        default=200, description="generation limit: prompt and answer (openunlearning: answer alone)"
    )
    batch_tokens: Count = Field(default=8192, description="tokens of a rank in one pass")


class TrackingConfig(Section):
    wandb: bool = Field(default=True, description="log to Weights & Biases as its own settings say (WANDB_MODE, ...)")
    project: str = "altpo_ds"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = []
    upload: list[Literal["examples", "report", "checkpoints", "environment"]] = Field(
        default=[],
        description="what W&B gets beyond configuration and metrics: example answers and the report (both quote rows "
        "to forget), a reference to the last checkpoint, environment (host, git commit, packages, console output)",
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard files to tensorboard/ in run_dir")
    examples: Natural = Field(default=8, description="example answers in the W&B table and the report")


class RunConfig(Section):
    """One run. Shares its keys with the run file, the dotted options and the environment."""

    run_dir: RunDir = Field(description="directory of the run, made when missing; $NAME is an environment variable")
    seed: Natural = 0
    model: ModelConfig
    reference: ReferenceConfig = ReferenceConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    engine: EngineConfig = EngineConfig()
    alternates: AlternatesConfig = AlternatesConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
