"""Items to the packed batches that one forward pass scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import QARow
from altpo_ds.data.sources import Place
from altpo_ds.data.stream import Item
from altpo_ds.data.trees import PackedTrees, Tree, pack


@dataclass(frozen=True)
class TrainBatch:
    """A micro-batch: its trees with the places of their rows, and which responses make P pairs and which are retained.

    Response indices point into the trees' R responses.
    """

    places: tuple[Place, ...]
    trees: tuple[Tree, ...]
    packed: PackedTrees
    alternate: Tensor  # (P,) response index of each pair's alternate
    forget: Tensor  # (P,) response index of each pair's original answer
    retain: Tensor  # (Q,) response indices of the retain rows

    @property
    def unique_tokens(self) -> int:
        return sum(tree.unique_tokens for tree in self.trees)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of the same responses as separate sequences, each with its own copy of the prompt."""
        return sum(len(tree.prompt) * len(tree.responses) + sum(map(len, tree.responses)) for tree in self.trees)

    @property
    def retain_tokens(self) -> int:
        """Response tokens of the retain rows: their share of the NLL's denominator."""
        return int(self.packed.counts[self.retain].sum())

    def to(self, device: torch.device) -> "TrainBatch":
        names = ("packed", "alternate", "forget", "retain")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def forget_tree(chat: ChatTokenizer, question: str, answer: str, alternates: Sequence[str]) -> Tree:
    """Prompt, original answer first, then the alternates."""
    responses = (tuple(chat.response(question, text)) for text in (answer, *alternates))
    return Tree(tuple(chat.prompt(question)), tuple(responses))


def row_tree(chat: ChatTokenizer, row: QARow) -> Tree:
    """A retain row or a plain document as a tree with one branch."""
    if row.question is None:
        prompt, response = chat.document(row.answer)
        return Tree(tuple(prompt), (tuple(response),))
    return Tree(tuple(chat.prompt(row.question)), (tuple(chat.response(row.question, row.answer)),))


@dataclass(frozen=True)
class Example:
    """What one rank scores whole: a question with its answer first and its alternates, or a retain row."""

    place: Place
    tree: Tree
    retained: bool


def examples(chat: ChatTokenizer, item: Item) -> list[Example]:
    """An item's forget tree (if any), then its retain trees."""
    forget: list[Example] = []
    if item.forget is not None:
        assert item.forget.question is not None
        tree = forget_tree(chat, item.forget.question, item.forget.answer, item.alternates)
        forget = [Example(item.forget.place, tree, retained=False)]
    return [*forget, *(Example(row.place, row_tree(chat, row), retained=True) for row in item.retain)]


def train_batch(packed: Sequence[Example]) -> TrainBatch:
    """Packs examples into one row, in order."""
    alternate: list[int] = []
    forget: list[int] = []
    retain: list[int] = []
    responses = 0
    for example in packed:
        k = len(example.tree.responses) - 1
        if example.retained:
            retain.append(responses)
        alternate += range(responses + 1, responses + 1 + k)
        forget += [responses] * k
        responses += k + 1
    trees = tuple(example.tree for example in packed)
    index = torch.long
    return TrainBatch(
        places=tuple(example.place for example in packed),
        trees=trees,
        packed=pack(trees),
        alternate=torch.tensor(alternate, dtype=index),
        forget=torch.tensor(forget, dtype=index),
        retain=torch.tensor(retain, dtype=index),
    )
