"""A run as strict, frozen models: every key that a run file may hold, with its meaning and default."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from altpo_ds.config.evaluation import EvaluateConfig
from altpo_ds.config.section import (
    AlternatesSource,
    Count,
    Decay,
    ModelPath,
    Natural,
    NonNegative,
    Positive,
    RetainSource,
    RunDir,
    Section,
    ServerConfig,
    Share,
    ShareAboveZero,
    Source,
)


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
    liger: bool = Field(
        default=False, description="Liger's kernels for norms, rotary embeddings and MLPs; GPUs only, extra `liger`"
    )
    trust_remote_code: list[ModelPath] = Field(
        default=[], description="models, as their paths are written here, whose own Python code may run"
    )


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
    micro_batch_size: Count = Field(
        default=1,
        description="questions (finetune: rows) of a rank in one forward pass, on average: tokens are balanced",
    )
    gradient_accumulation_steps: Count | None = Field(
        default=None, description="none: global_batch_size / (micro_batch_size x ranks)"
    )
    micro_batch_tokens: Count | None = Field(
        default=None,
        description="most tokens of a packed micro-batch, for which a step takes more passes; none: no limit",
    )
    lr: Positive = 5e-5
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = Field(default=0.5, description="share of the optimizer steps with rising learning rate")
    weight_decay: NonNegative = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    max_grad_norm: Positive | None = 1.0
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="a loss or gradient that is not finite: stop, or leave the update out and go on"
    )
    max_skips: Natural = Field(default=3, description="steps without an update that a run may have")
    log_every: Count = 1
    evaluate_every: Natural = Field(
        default=0, description="optimizer steps between evaluations; 0: none during training"
    )


class CheckpointsConfig(Section):
    every: Natural = Field(default=0, description="optimizer steps between checkpoints; 0: only the last step")
    keep: Count = Field(default=2, description="checkpoints kept, the newest ones")
    asynchronous: bool = Field(
        default=False, description="copy the state to host memory and write it while training goes on"
    )


class EngineConfig(Section):
    deepspeed: str = Field(
        default="auto", description="file in ds_configs/ by name, or a path; auto: zero3, or zero3_cpu"
    )
    timeout: Positive = Field(default=1800, description="seconds that a collective operation may take")


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


class TrackingConfig(Section):
    wandb: bool = Field(default=True, description="log to Weights & Biases as its own settings say (WANDB_MODE, ...)")
    project: str = "altpo_ds"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = Field(default=[], description="tags of the W&B run")
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
