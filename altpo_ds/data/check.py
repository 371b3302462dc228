"""Validation before training: every row is read, parsed and measured once, each rank its share."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import DataConfig, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.batches import forget_tree, row_tree
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import QARow, parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.data.stream import Rows

LISTED = 20  # problems that a message or the provenance lists; the count is always whole


@dataclass
class Checked:
    """What one rank found in its share; `merge` adds up the ranks."""

    forget: int = 0
    retain: int = 0
    short: int = 0  # questions with fewer alternates than wanted
    problems: list[Problem] = field(default_factory=list)

    def rows(self) -> Rows:
        return Rows(self.forget, self.retain, frozenset(problem.place for problem in self.problems))


def merge(parts: list[Checked]) -> Checked:
    """The ranks' findings as one, problems in the order of places."""
    problems = sorted((p for part in parts for p in part.problems), key=lambda problem: problem.place)
    unique = list(dict.fromkeys(problems))
    return Checked(sum(p.forget for p in parts), sum(p.retain for p in parts), sum(p.short for p in parts), unique)


def _too_long(chat: ChatTokenizer, row: QARow, limit: int) -> str | None:
    if chat.at_most(row.question, row.answer) <= limit:
        return None
    tree = row_tree(chat, row)
    longest = len(tree.prompt) + len(tree.responses[0])
    if longest <= limit:
        return None
    return f"prompt and response take {longest} tokens, data.max_tokens is {limit}; raise it or shorten the row"


def _too_large(chat: ChatTokenizer, row: QARow, texts: list[str], k: int, limit: float) -> str | None:
    """What is wrong with a question whose tree may take more than `limit` tokens, with its k longest alternates."""
    assert row.question is not None
    if sum(chat.at_most(row.question, text) for text in (row.answer, *texts)) <= limit:
        return None
    tree = forget_tree(chat, row.question, row.answer, texts)
    answer, *alternates = map(len, tree.responses)
    tokens = len(tree.prompt) + answer + sum(sorted(alternates)[-k:])
    if tokens <= limit:
        return None
    return (
        f"the question with {min(k, len(texts))} alternates takes up to {tokens} tokens, train.micro_batch_tokens is "
        f"{limit}; raise it, or lower data.alternates_per_question"
    )


def _share(source: Source, rank: int, world_size: int) -> Iterator[QARow | Problem]:
    for number, (_, row) in enumerate(parsed(source, parse_qa)):
        if number % world_size == rank:
            yield row


def _check_forget(
    row: QARow, index: AlternatesIndex, config: DataConfig, chat: ChatTokenizer, limit: float, found: Checked
) -> Problem | None:
    assert config.forget is not None
    assert row.question is not None
    alternates = index.find(row.question)
    if not alternates:
        what = "has no alternates; write them with `altpo-ds alternates`"
        return Problem(row.place, config.forget.question, what)
    # A bad alternate breaks its forget row: skipping takes both, and the row count stays that of the stream.
    for place, text in alternates:
        if text.strip() == row.answer.strip():
            return Problem(row.place, config.forget.question, f"an alternate ({place}) equals the original answer")
        if what := _too_long(chat, replace(row, answer=text), config.max_tokens):
            return Problem(row.place, config.forget.question, f"an alternate ({place}): {what}")
    if what := _too_long(chat, row, config.max_tokens):
        return Problem(row.place, config.forget.answer, what)
    texts = [text for _, text in alternates]
    if what := _too_large(chat, row, texts, config.alternates_per_question, limit):
        return Problem(row.place, config.forget.question, what)
    found.short += len(alternates) < config.alternates_per_question
    return None


def check_share(
    config: DataConfig,
    chat: ChatTokenizer,
    index: AlternatesIndex | None,
    rank: int,
    world_size: int,
    micro_batch_tokens: int | None = None,
) -> Checked:
    """Validates a rank's share of the forget and retain rows, or of the rows to fine-tune on when `index` is None."""
    limit = micro_batch_tokens or inf
    found = Checked()
    if index is not None and config.forget is not None:
        found.problems += index.problems
        for row in _share(config.forget, rank, world_size):
            problem = row if isinstance(row, Problem) else _check_forget(row, index, config, chat, limit, found)
            if problem is None:
                found.forget += 1
            else:
                found.problems.append(problem)
    source = config.retain if index is not None else config.train
    for row in _share(source, rank, world_size) if source is not None else ():
        if isinstance(row, Problem):
            found.problems.append(row)
        elif what := _too_long(chat, row, config.max_tokens):
            found.problems.append(Problem(row.place, source.answer if source else "-", what))
        else:
            found.retain += 1
    return found


def decide(config: DataConfig, found: Checked, unlearning: bool) -> Rows:
    """Stops on the first broken row, or skips them all, as data.on_error says; UserError where a source has none left.

    `unlearning` tells forget and retain rows from the rows to fine-tune on.
    """
    if found.problems and config.on_error == "stop":
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise UserError(f"{found.problems[0]}{more}; mend it, or set data.on_error=skip")
    rows = found.rows()
    usable = {"data.forget": rows.forget} if unlearning else {"data.train": rows.retain}
    if unlearning and config.retain is not None and config.retain_per_pair:
        usable["data.retain"] = rows.retain
    for key, count in usable.items():
        if not count:
            why = f"; the first of {len(found.problems)} skipped: {found.problems[0]}" if found.problems else ""
            raise UserError(f"{key}: no usable row{why}")
    return rows
