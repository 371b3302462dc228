"""The suites `relearning` and `quantization`: does what was forgotten come back when the weights are touched?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from altpo_ds.config.batch import Batch
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.trees import Tree, pack
from altpo_ds.engine.build import policy_engine, reference_engine
from altpo_ds.engine.quantization import quantize
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.inputs import Example
from altpo_ds.evaluate.intervals import tofu_intervals
from altpo_ds.evaluate.metrics import probability, rouge_l_recall
from altpo_ds.evaluate.result import Result
from altpo_ds.evaluate.tofu import tofu

IN_TRAINING = "attacks a model on disk, not one in training: `altpo-ds evaluate` does it afterwards"
MEASURES = ("probability", "rouge_l")


def quantization(context: Context) -> Result:
    """TOFU's metrics of the model with its weights rounded to 8 and to 4 bits, as `int8_*` and `int4_*`."""
    result, settings = Result(), context.settings
    for bits in settings.quantization_bits:
        prefix = f"int{bits}_"
        if isinstance(context.engine, PolicyEngine):
            result.lack(f"{prefix}forget_quality", IN_TRAINING)
            continue
        engine = reference_engine(context.config, context.model, context.world)
        quantize(engine.scorer, bits)
        found = tofu(replace(context, engine=engine, served=None))
        engine.engine.destroy()
        result.metrics |= {prefix + name: value for name, value in found.metrics.items() if not name.endswith("_rows")}
        result.reasons |= {prefix + name: reason for name, reason in found.reasons.items()}
        result.notes |= {prefix + name: note for name, note in found.notes.items()}
        bounds = tofu_intervals(found.per_example, settings.dialect)
        result.intervals |= {prefix + name: interval for name, interval in bounds.items()}
        for split, rows in found.per_example.items():
            result.columns(split, [{prefix + "generation": row["generation"]} for row in rows])
    result.settings["quantization"] = "round to nearest, weights of linear layers, dequantised: simulated"
    return result


def relearning(context: Context) -> Result:
    """Fine-tunes the model on a few forget rows and watches the others come back, against the retain model."""
    result, settings = Result(), context.settings.relearning
    forget = [replace(e, tree=_answer(e), paraphrased=False) for e in context.examples if e.split == "forget"]
    names = [f"relearning_{measure}{end}" for measure in MEASURES for end in ("", "_gain", "_excess")]
    reason = None
    if isinstance(context.engine, PolicyEngine):
        reason = IN_TRAINING
    elif len(forget) <= settings.rows:
        reason = f"needs more than {settings.rows} forget rows: the first ones are the attacker's"
    if reason is not None:
        for name in names:
            result.lack(name, reason)
        return result
    curve, last = _curve(context, forget)
    result.curves["relearning"] = curve
    result.settings["relearning"] = settings.model_dump(mode="json")
    for measure in MEASURES:
        result.mean(f"relearning_{measure}", last[measure])
        result.metrics[f"relearning_{measure}_gain"] = curve[-1][measure] - curve[0][measure]
    _compare(context, result, curve)
    return result


def _answer(example: Example) -> Tree:
    return Tree(example.tree.prompt, example.tree.responses[:1])


def _curve(context: Context, forget: Sequence[Example]) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Means over the rows that the attacker lacks (and has: `trained_*`) at each point, and the last point's values."""
    settings = context.settings.relearning
    config = _training(context.config, context.model)
    policy = policy_engine(config, Batch(1, 1, context.world.size, context.world.size), settings.steps, context.world)
    trees = [example.tree for example in forget[: settings.rows]]
    curve, values = [], {}
    for step in range(settings.steps + 1):
        if step % settings.every == 0 or step == settings.steps:
            policy.engine.eval()
            values = _measure(replace(context, engine=policy, examples=forget, served=None))
            point = {name: sum(rows[settings.rows :]) / len(rows[settings.rows :]) for name, rows in values.items()}
            point |= {f"trained_{name}": sum(rows[: settings.rows]) / settings.rows for name, rows in values.items()}
            curve.append({"step": step, **point})
        if step < settings.steps:
            _train_step(policy, trees, context)
    policy.engine.destroy()
    return curve, {name: rows[settings.rows :] for name, rows in values.items()}


def _training(config: RunConfig, model: str) -> RunConfig:
    """The run's engine with a constant learning rate, on the model under attack."""
    settings = {"lr": config.evaluate.relearning.lr, "scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0}
    train = config.train.model_copy(update=settings)
    return config.model_copy(
        update={"train": train, "model": config.model.model_copy(update={"path": model})},
    )


def _train_step(policy: PolicyEngine, trees: Sequence[Tree], context: Context) -> None:
    """One optimizer step on the NLL of all the attacker's rows, shared out over the ranks."""
    mine = trees[context.world.rank :: context.world.size]
    tokens = sum(len(tree.responses[0]) for tree in trees)
    policy.engine.train()
    # A rank without rows keeps in step, and adds nothing.
    log_probs, _ = policy.forward(pack(mine or [Tree((0,), ((0,),))]).to(context.world.device))
    policy.backward(-log_probs.sum() / tokens * bool(mine))
    policy.step()


def _measure(context: Context) -> dict[str, list[float]]:
    rows, texts = context.likelihoods["forget"], context.generations["forget"]
    return {
        "probability": [probability(row["answer_nll"]) for row in rows],
        "rouge_l": [rouge_l_recall(text, row["answer"]) for text, row in zip(texts, rows, strict=True)],
    }


def _compare(context: Context, result: Result, curve: Sequence[dict[str, Any]]) -> None:
    """How far above the retain model's the curve runs: what comes back faster than it is learned anew."""
    reference = context.reference
    other = reference.curves.get("relearning") if reference else None
    for measure in MEASURES:
        name = f"relearning_{measure}_excess"
        if not other:
            why = "needs the retain model's evaluation with the suite relearning (evaluate.retain_reference)"
            result.lack(name, why)
        elif reference and reference.settings.get("relearning") != result.settings["relearning"]:
            result.lack(name, "the retain model was attacked with other settings (evaluate.relearning)")
        else:
            gaps = [point[measure] - theirs[measure] for point, theirs in zip(curve, other, strict=True)]
            result.metrics[name] = sum(gaps) / len(gaps)
