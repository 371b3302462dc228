"""P(clean) of texts under a text classifier: any sequence classification model, or the embedded one."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import ClassifierConfig
from altpo_ds.config.require import check_model_path
from altpo_ds.engine.distributed import World, broadcast_object, together
from altpo_ds.engine.models import access, unloadable
from altpo_ds.engine.scoring import shared_out
from altpo_ds.evaluate import embedded

BATCH = 32
EMBEDDED = "embedded"


class Cleanness(NamedTuple):
    """P(clean) of each text, 0 for an empty one, and the classifier that said so."""

    scores: list[float]
    classifier: dict[str, Any]


def cleanness(
    texts: Sequence[str], clean: Sequence[str], config: ClassifierConfig, seed: int, world: World
) -> Cleanness:
    """Scores `texts` on all ranks. `clean` is what the embedded classifier learns from, beside its own sentences.

    UserError where the classifier cannot be loaded or has no such label.
    """
    said = [text for text in texts if text.strip()]
    if config.path is None:
        digest = hashlib.sha256("\0".join([str(seed), *clean]).encode()).hexdigest()[:12]
        found = broadcast_object(embedded.train(tuple(clean), seed)(said) if world.is_main else [])
        classifier: dict[str, Any] = {"name": EMBEDDED, "fingerprint": digest}
    else:
        found = _model_scores(said, config, world)
        classifier = {"name": config.path, "label": config.label, "dtype": config.dtype}
        classifier["max_tokens"] = config.max_tokens
    scores = iter(found)
    return Cleanness([next(scores) if text.strip() else 0.0 for text in texts], classifier)


def _model_scores(texts: Sequence[str], config: ClassifierConfig, world: World) -> list[float]:
    with together():
        tokenizer, model, label = _load(config)
    model.to(world.device).eval()  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def work(mine: list[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(mine), BATCH):
            batch = tokenizer(
                mine[start : start + BATCH],
                truncation=True,
                max_length=config.max_tokens,
                padding=True,
                return_tensors="pt",
            ).to(world.device)
            scores += torch.softmax(model(**batch).logits.float(), -1)[:, label].tolist()
        return scores

    return shared_out(texts, len, work, world)


def _load(config: ClassifierConfig) -> tuple[Any, Any, int]:
    """Tokenizer, model, and the index of the label."""
    path = str(config.path)
    check_model_path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **access(path))
        model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, config.dtype), **access(path)
        )
    except Exception as error:  # the loaders raise many types
        raise unloadable("the classifier", path, error) from error
    labels: dict[str, int] = {str(name): int(i) for i, name in model.config.id2label.items()}
    if config.label not in labels:
        raise UserError(
            f"evaluate.classifier.label = {config.label}: '{path}' has no such label, it has {', '.join(labels)}"
        )
    return tokenizer, model, labels[config.label]
