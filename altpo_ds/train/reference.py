"""Where a step's reference log-probabilities come from: a cache on disk, or an engine in every step."""

from collections.abc import Iterator
from itertools import islice
from math import ceil

import torch
from torch import Tensor

from altpo_ds.config.schema import RunConfig
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.batches import TrainBatch, forget_tree
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.stream import Rows, good_rows
from altpo_ds.data.trees import Tree
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.distributed import World, broadcast_object, gather_objects
from altpo_ds.engine.models import model_hash, resolve_dtype
from altpo_ds.engine.reference_cache import ReferenceCache, cache_folder, response_keys
from altpo_ds.engine.scoring import score_trees
from altpo_ds.engine.zero import ReferenceEngine
from altpo_ds.objective.log_probs import response_sums

WINDOW = 256  # questions of a rank tokenized at a time while the cache is filled
TOKENS = 4096  # of a rank in one pass


class OnlineReference:
    """Scores each batch with the frozen engine."""

    def __init__(self, engine: ReferenceEngine) -> None:
        self.engine = engine

    def scores(self, batch: TrainBatch, distribution: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all responses (R,), and of the vocabulary (M, V) at the tokens of `distribution`."""
        log_probs, whole = self.engine.forward(batch.packed, distribution)
        return response_sums(log_probs, batch.packed.response, len(batch.packed.counts)), whole


class CachedReference:
    """Looks responses up by content; retain responses, which no pair needs, read as 0."""

    def __init__(self, cache: ReferenceCache, device: torch.device) -> None:
        self.cache, self.device = cache, device

    def scores(self, batch: TrainBatch, distribution: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all responses (R,); there is no distribution in the cache: (0, 1)."""
        assert distribution is None, "a KL term needs reference.mode: online"
        paired = set(batch.alternate.tolist()) | set(batch.forget.tolist())
        keys = [key for tree in batch.trees for key in response_keys(tree)]
        found = dict(zip(sorted(paired), self.cache.find(keys[i] for i in sorted(paired)), strict=True))
        values = [float(found.get(i, 0.0)) for i in range(len(keys))]
        return torch.tensor(values, device=self.device), torch.zeros(0, 1, device=self.device)


Reference = OnlineReference | CachedReference


def build_reference(
    config: RunConfig, chat: ChatTokenizer, index: AlternatesIndex, rows: Rows, world: World
) -> Reference:
    """The reference that the run asks for; a cache is filled by an engine that is gone afterwards."""
    path = config.reference.path or config.model.path
    if config.reference.mode == "online":
        return OnlineReference(reference_engine(config, path, world))
    dtype = str(resolve_dtype(config.model.dtype, world.device)).removeprefix("torch.")
    fingerprint = broadcast_object(model_hash(path) if world.is_main else "")
    cache = ReferenceCache(cache_folder() / "reference" / f"{fingerprint}-{dtype}.safetensors")
    lacking = any(cache.missing(response_keys(tree)) for tree in _trees(config, chat, index, rows, world))
    if any(gather_objects(lacking)):
        _fill(
            cache, _trees(config, chat, index, rows, world), rows.forget, reference_engine(config, path, world), world
        )
    return CachedReference(cache, world.device)


def _trees(config: RunConfig, chat: ChatTokenizer, index: AlternatesIndex, rows: Rows, world: World) -> Iterator[Tree]:
    assert config.data.forget is not None
    for row in islice(good_rows(config.data.forget, rows.skipped), world.rank, None, world.size):
        assert row.question is not None
        yield forget_tree(chat, row.question, row.answer, [text for _, text in index.find(row.question)])


def _fill(cache: ReferenceCache, trees: Iterator[Tree], total: int, engine: ReferenceEngine, world: World) -> None:
    """Scores the trees that lack a value, window by window; every rank gets all values, rank 0 writes them."""
    lacking = (tree for tree in trees if cache.missing(response_keys(tree)))
    values: dict[int, float] = {}
    for _ in range(ceil(total / (world.size * WINDOW))):
        window = list(islice(lacking, WINDOW))
        scores = score_trees(engine.forward, window, TOKENS, world)
        for tree, sums in zip(window, scores, strict=True):
            values.update(zip(response_keys(tree), sums, strict=True))
    for part in gather_objects(values):
        cache.add(part)
    if world.is_main:
        cache.save()
