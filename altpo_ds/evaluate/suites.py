"""The TOFU suite over all ranks: one forward pass per row for every likelihood, one greedy generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import EvaluateConfig, PerturbedSource
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import PerturbedRow, parse_perturbed, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.data.trees import Tree
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.engine.generation import Sampling, decode, generate
from altpo_ds.engine.scorer import SequenceScorer
from altpo_ds.engine.scoring import Forward, score_trees
from altpo_ds.evaluate.metrics import SPLITS, rouge_l_recall, tofu_metrics, tofu_reasons, truth_ratio

ROWS = {"altpo": 300, "tofu_trainer": 300, "openunlearning": None}  # rows of a split that a dialect evaluates


@dataclass(frozen=True)
class Example:
    """An evaluation row with its tokens; responses are answer, paraphrase (where there is one) and perturbations."""

    split: str
    number: int
    row: PerturbedRow
    tree: Tree
    paraphrased: bool


def read_examples(config: EvaluateConfig, chat: ChatTokenizer) -> list[Example]:
    """All rows of all splits that the run names, up to the dialect's limit. UserError for a broken one."""
    limit = config.max_rows or ROWS[config.dialect]
    examples = []
    for split in SPLITS:
        source: PerturbedSource | None = getattr(config, split)
        if source is None:
            continue
        for number, (_, row) in enumerate(parsed(source, parse_perturbed)):
            if isinstance(row, Problem):
                raise UserError(f"{row}; evaluation rows are never skipped")
            if limit is not None and number >= limit:
                break
            examples.append(_example(split, number, row, chat))
    if not examples:
        raise UserError("no evaluation rows; name them in evaluate.forget, evaluate.retain, ...")
    return examples


def _example(split: str, number: int, row: PerturbedRow, chat: ChatTokenizer) -> Example:
    paraphrased = row.paraphrased_answer != row.answer
    texts = (row.answer, *((row.paraphrased_answer,) if paraphrased else ()), *row.perturbed_answer)
    responses = tuple(tuple(chat.response(row.question, text)) for text in texts)
    return Example(split, number, row, Tree(tuple(chat.prompt(row.question)), responses), paraphrased)


def tofu(
    forward: Forward,
    scorer: SequenceScorer,
    chat: ChatTokenizer,
    examples: Sequence[Example],
    config: EvaluateConfig,
    world: World,
    reference: Sequence[dict[str, Any]] | None,
) -> dict[str, Any]:
    """{"metrics", "per_example", "reasons"} of the whole suite, the same on every rank.

    `reference` holds the retain model's per-example forget rows. Rows are shared out by length, so that ranks
    finish together; results do not depend on how many there are.
    """
    by_length = sorted(examples, key=lambda example: example.tree.unique_tokens)
    mine = by_length[world.rank :: world.size]
    scores = score_trees(forward, [example.tree for example in mine], config.batch_tokens, world)
    answer_alone = config.dialect == "openunlearning"  # what its limit counts
    limit = config.max_length
    sampling = Sampling(max_new_tokens=limit) if answer_alone else Sampling(max_length=limit)
    prompts = [example.tree.prompt for example in mine]
    batch_size = max(1, config.batch_tokens // config.max_length)
    responses = generate(scorer, chat.tokenizer, prompts, sampling, world, batch_size)
    results = [
        (example.split, example.number, _result(example, sums, decode(chat.tokenizer, texts[0]), config))
        for example, sums, texts in zip(mine, scores, responses, strict=True)
    ]
    everything = sorted((item for part in gather_objects(results) for item in part), key=lambda item: item[:2])
    per_example: dict[str, list[dict[str, Any]]] = {}
    for split, _, result in everything:
        per_example.setdefault(split, []).append(result)
    metrics = tofu_metrics(per_example, config.dialect, reference)
    return {"metrics": metrics, "per_example": per_example, "reasons": tofu_reasons(metrics)}


def _result(example: Example, sums: Sequence[float], generation: str, config: EvaluateConfig) -> dict[str, Any]:
    nlls = [-total / len(response) for total, response in zip(sums, example.tree.responses, strict=True)]
    paraphrased = nlls[1] if example.paraphrased else nlls[0]
    perturbed = nlls[1 + example.paraphrased :]
    return {
        "question": example.row.question,
        "answer": example.row.answer,
        "generation": generation,
        "answer_nll": nlls[0],
        "paraphrased_nll": paraphrased,
        "perturbed_nll": perturbed,
        "rouge_l": rouge_l_recall(generation, example.row.answer),
        "truth_ratio": truth_ratio(paraphrased, perturbed, config.dialect),
    }
