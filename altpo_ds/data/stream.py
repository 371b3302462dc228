"""The endless order of training items: a pure function of the seed, read as a stream, resumable at any item."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from altpo_ds.config.schema import DataConfig, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.rows import QARow, parse_qa, parsed
from altpo_ds.data.sources import Place, Problem


@dataclass(frozen=True)
class Item:
    """A forget question with its alternates (none when fine-tuning), and the retain rows beside it."""

    forget: QARow | None
    alternates: tuple[str, ...]
    retain: tuple[QARow, ...]


@dataclass(frozen=True)
class Rows:
    """Good rows of each training source, and the places of the skipped ones."""

    forget: int
    retain: int
    skipped: frozenset[Place] = frozenset()


def draw_seed(seed: int, *what: object) -> int:
    """A seed of its own for each use, stable over processes and versions."""
    digest = hashlib.sha256("/".join(map(str, (seed, *what))).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def good_rows(source: Source, skipped: frozenset[Place]) -> Iterator[QARow]:
    """Question and answer rows in file order, without those that validation skipped."""
    for place, row in parsed(source, parse_qa):
        if place not in skipped and not isinstance(row, Problem):
            yield row


@dataclass(frozen=True)
class _Examples:
    """A generator of rows as `datasets` wants it: called without arguments, yielding dicts."""

    rows: Callable[[], Iterator[Any]]

    def __call__(self) -> Iterator[dict[str, Any]]:
        yield from ({"item": row} for row in self.rows())

    def __getstate__(self) -> None:
        """`datasets` fingerprints its generators by pickling; a stream is cached nowhere and needs no print."""


def _stream(rows: Callable[[], Iterator[Any]]) -> Any:
    """A generator as an IterableDataset of one shard: rows, not files, are what ranks share out."""
    from datasets import IterableDataset

    return IterableDataset.from_generator(_Examples(rows))


def _passes(
    source: Source, rows: Rows, total: int, start: int, buffer: int, seed: int, name: str
) -> Iterator[tuple[int, int, QARow]]:
    """(pass, number within it, row) for ever, shuffled anew in each pass over `total` rows, from item `start`."""
    for number in itertools.count(start // total):
        stream = _stream(partial(good_rows, source, rows.skipped))
        if buffer:
            stream = stream.shuffle(seed=draw_seed(seed, name, number), buffer_size=buffer)
        done = start - number * total if number == start // total else 0
        for offset, example in enumerate(stream.skip(done), done):
            yield number, offset, example["item"]


def _items(config: DataConfig, seed: int, rows: Rows, index: AlternatesIndex | None, start: int) -> Iterator[Item]:
    k = config.alternates_per_question
    buffer = config.shuffle_buffer
    if config.forget is None or index is None:
        assert config.train is not None
        for _, _, row in _passes(config.train, rows, rows.retain, start, buffer, seed, "train"):
            yield Item(None, (), (row,))
        return
    beside = k * config.retain_per_pair if config.retain is not None else 0
    retain: Iterator[tuple[int, int, QARow]] = iter(())
    if beside:
        assert config.retain is not None
        retain = _passes(config.retain, rows, rows.retain, start * beside, buffer, seed, "retain")
    for epoch, number, row in _passes(config.forget, rows, rows.forget, start, buffer, seed, "forget"):
        assert row.question is not None
        found = [text for _, text in index.find(row.question)]
        chosen = sorted(
            random.Random(draw_seed(seed, "k", epoch, number)).sample(range(len(found)), min(k, len(found)))
        )
        companions = tuple(companion for _, _, companion in itertools.islice(retain, beside))
        yield Item(row, tuple(found[i] for i in chosen), companions)


class TrainStream:
    """One rank's share of the items. Rank r of W takes items r, r + W, ...: the order does not depend on W.

    `state_dict` holds the number of items that all ranks together have taken.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        rows: Rows,
        index: AlternatesIndex | None,
        rank: int,
        world_size: int,
    ) -> None:
        self._items = partial(_items, config, seed, rows, index)
        self._rank, self._world_size = rank, world_size
        self.items_seen = 0
        self._iterator: Iterator[Item] | None = None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._iterator is None:
            self._iterator = self._open()
        self.items_seen += self._world_size
        return next(self._iterator)

    def _open(self) -> Iterator[Item]:
        from datasets.distributed import split_dataset_by_node

        whole = _stream(partial(self._items, start=self.items_seen))
        share = split_dataset_by_node(whole, rank=self._rank, world_size=self._world_size)
        return (example["item"] for example in share)

    def state_dict(self) -> dict[str, int]:
        return {"items_seen": self.items_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.items_seen = state["items_seen"]
        self._iterator = None
