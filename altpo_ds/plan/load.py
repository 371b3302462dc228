"""What a run puts on each rank, and what its passes over tokens hold whatever the stage."""

from dataclasses import dataclass

from altpo_ds.objective.log_probs import CHUNK_BYTES
from altpo_ds.plan.shape import Shape


@dataclass(frozen=True)
class Load:
    """What a run puts on each rank."""

    ranks: int
    tokens: int  # of the packed row of a micro-batch
    response_tokens: int  # of them, those that are projected onto the vocabulary
    accumulation: int
    element: int  # bytes of a parameter
    cpu: bool = False  # ranks on CPUs: gloo copies messages, and a buffer takes memory only where it is written
    onednn: bool = False  # products by oneDNN, which copies a transposed matrix first
    checkpointing: bool = False
    online_reference: bool = False
    distribution_tokens: int = 0  # retain response tokens whose whole distribution a KL term keeps

    @property
    def mixed(self) -> bool:
        """Whether the optimizer keeps float32 copies of 16-bit parameters."""
        return self.element < 4


def activations(shape: Shape, load: Load) -> int:
    """Bytes that the forward pass leaves behind."""
    inside = shape.hidden * load.element if load.checkpointing else shape.inside
    return load.tokens * (shape.layers * inside + shape.outside)


def at_work(shape: Shape, load: Load) -> int:
    """Bytes of the backward pass of a layer, recomputed first with gradient checkpointing."""
    return load.tokens * (3 * shape.widest + shape.inside * load.checkpointing)


def logits(shape: Shape, load: Load) -> int:
    """Bytes of the chunk of logits, in float32 and in the parameters' own type or transposed, and of the distributions
    of a KL term: policy and reference, with the gradient."""
    rows = min(load.response_tokens, max(1, CHUNK_BYTES // (4 * shape.vocabulary)))
    chunk = rows * shape.vocabulary * (4 + load.element * (load.mixed or load.onednn))
    return chunk + 3 * load.distribution_tokens * shape.vocabulary * 4
