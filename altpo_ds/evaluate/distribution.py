"""The suite `distribution`: does the model answer as the retain model does, whatever the answer (FADE)?"""

from altpo_ds.config.errors import UserError
from altpo_ds.data.stream import draw_seed
from altpo_ds.data.trees import Tree
from altpo_ds.engine.distributed import together
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine, ReferenceEngine
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.result import Result

Engine = PolicyEngine | ReferenceEngine
DIRECTIONS = {"fade_to_retain": "the model's answers", "fade_from_retain": "the retain model's answers"}


def distribution(context: Context) -> Result:
    """FADE (Cho et al. 2025, arXiv 2510.12981) on the forget questions: answers are sampled from each of the two
    models, and `fade_*` is how much likelier their own model finds them than the other, in nats an answer.

    Each direction's mean estimates a KL divergence: 0 where the models are the same. `fade` is the mean of both.
    """
    result = Result()
    path = context.settings.retain_model
    if path is None:
        for name in (*DIRECTIONS, "fade"):
            result.lack(name, "needs the retain model itself (evaluate.retain_model)")
        return result
    with together():
        trusted = context.config.model.trust_remote_code
        if load_tokenizer(path, trusted).get_vocab() != context.chat.tokenizer.get_vocab():
            raise UserError(
                f"evaluate.retain_model = {path}: has another vocabulary than the model under evaluation, so neither "
                "can score the other's answers"
            )
    retain = context.retain_engine()
    found = [
        _differences(context, context.engine, retain, "model"),
        _differences(context, retain, context.engine, "retain"),
    ]
    for (name, whose), differences in zip(DIRECTIONS.items(), found, strict=True):
        result.mean(name, differences)
        result.notes[name] = f"{context.settings.samples} of {whose} to a question, at temperature 1; nats an answer"
    result.mean("fade", [sum(pair) / 2 for pair in zip(*found, strict=True)])
    result.columns("forget", [dict(zip(DIRECTIONS, pair, strict=True)) for pair in zip(*found, strict=True)])
    return result


def _differences(context: Context, source: Engine, other: Engine, stream: str) -> list[float]:
    """For each forget question, the mean of log p(source) - log p(other) over answers that `source` samples."""
    asked = [example for example in context.examples if example.split == "forget"]
    count, seed = context.settings.samples, context.config.seed
    seeds = [[draw_seed(seed, "distribution", stream, example.number, i) for i in range(count)] for example in asked]
    prompts = [example.tree.prompt for example in asked]
    answers = context.generate(prompts, context.sampling(temperature=1.0, samples=count), seeds, source)
    # The tokens as they were drawn: other tokens of the same text would have another probability.
    trees = [Tree(prompt, tuple(map(tuple, texts))) for prompt, texts in zip(prompts, answers, strict=True)]
    own, others = context.score(trees, source), context.score(trees, other)
    return [(sum(mine) - sum(theirs)) / count for mine, theirs in zip(own, others, strict=True)]
