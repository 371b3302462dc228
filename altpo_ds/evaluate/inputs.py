"""The rows of an evaluation, read and tokenized once."""

from dataclasses import dataclass
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import OWN_ROWS, EvaluateConfig
from altpo_ds.config.section import PerturbedSource, Source
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import PerturbedRow, paraphrased_questions, parse_perturbed, parse_qa, parsed
from altpo_ds.data.sources import Place, Problem
from altpo_ds.data.trees import Tree
from altpo_ds.evaluate.metrics import SPLITS

ROWS = {"altpo": 300, "tofu_trainer": 300, "openunlearning": None}  # rows of a split that a dialect evaluates
HOLDOUT = "holdout"


@dataclass(frozen=True)
class Example:
    """An evaluation row with its tokens; responses are answer, paraphrase (where there is one) and perturbations."""

    split: str
    number: int
    row: PerturbedRow
    tree: Tree
    paraphrased: bool


def read_examples(config: EvaluateConfig, chat: ChatTokenizer) -> list[Example]:
    """All rows of all splits that the suites need, up to the dialect's limit. UserError for a broken one.

    The perturbed answers may be absent where no suite asks for them.
    """
    limit = config.max_rows or ROWS[config.dialect]
    plain = not {"tofu", "quantization"} & set(config.suite)
    examples = [
        _example(split, number, row, chat, plain)
        for split in SPLITS
        if (source := getattr(config, split)) is not None
        for number, row in enumerate(_rows(source, _parse_plain if plain else parse_perturbed, limit))
    ]
    if config.holdout is not None and "privacy" in config.suite:
        rows = _rows(config.holdout, _parse_plain, limit)
        examples += [_example(HOLDOUT, number, row, chat, True) for number, row in enumerate(rows)]
    if not examples and set(config.suite) - OWN_ROWS:
        raise UserError("no evaluation rows; name them in evaluate.forget, evaluate.retain, ...")
    return examples


def _rows(source: Source, parse: Any, limit: int | None) -> list[PerturbedRow]:
    rows: list[PerturbedRow] = []
    for _, row in parsed(source, parse):
        if isinstance(row, Problem):
            raise UserError(f"{row}; evaluation rows are never skipped")
        if limit is not None and len(rows) >= limit:
            break
        rows.append(row)
    if not rows:
        raise UserError(f"'{source.path}' holds no rows: give a file with evaluation rows, or leave the split out")
    return rows


def _parse_plain(row: dict[str, Any], place: Place, source: Source) -> PerturbedRow:
    """A row of which question and answer are enough; questions in other words are taken along."""
    plain = parse_qa(row, place, source)
    assert plain.question is not None
    asked = paraphrased_questions(row, place, source) if isinstance(source, PerturbedSource) else ()
    return PerturbedRow(place, plain.question, plain.answer, plain.answer, (), asked)


def _example(split: str, number: int, row: PerturbedRow, chat: ChatTokenizer, answer_alone: bool) -> Example:
    paraphrased = row.paraphrased_answer != row.answer and not answer_alone
    perturbed = () if answer_alone else row.perturbed_answer
    texts = (row.answer, *((row.paraphrased_answer,) if paraphrased else ()), *perturbed)
    responses = tuple(tuple(chat.response(row.question, text)) for text in texts)
    return Example(split, number, row, Tree(tuple(chat.prompt(row.question)), responses), paraphrased)
