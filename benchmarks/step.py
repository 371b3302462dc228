"""Times training steps of the real engine on real rows, and how close they come to the machine's matrix multiply.

    python benchmarks/step.py --model DIR --forget FILE --retain FILE --pairs 5 --steps 4 [--deepspeed zero3_cpu]

FILE of --forget holds questions, answers and alternates (one row per alternate, or lists). The first two steps warm
up. Reference log-probabilities come from a cache, as in a run. Prints one JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import islice

import torch

from altpo_ds.config.batch import Batch
from altpo_ds.config.schema import AlternatesSource, ModelConfig, RetainSource, RunConfig
from altpo_ds.data.batches import TrainBatch, examples, train_batch
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import QARow, parse_alternates, parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.data.stream import Item
from altpo_ds.engine.build import policy_engine
from altpo_ds.engine.distributed import start, stop
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.objective.compose import Scores, Totals, objective
from altpo_ds.objective.log_probs import response_sums
from altpo_ds.train.trainer import peak_memory_gib

WARM_UP = 2


def items(forget: str, retain: str, k: int, questions: int, steps: int) -> Iterator[list[Item]]:
    """Batches of questions with k alternates and k retain rows each, in file order."""
    source = AlternatesSource(path=forget)
    answers = (row for _, row in parsed(source, parse_qa) if not isinstance(row, Problem))
    alternates = (row for _, row in parsed(source, parse_alternates) if not isinstance(row, Problem))
    grouped: dict[str, tuple[QARow, list[str]]] = {}
    for qa, row in zip(answers, alternates, strict=True):
        grouped.setdefault(row.question, (qa, []))[1].extend(row.alternates)
    kept = (row for _, row in parsed(RetainSource(path=retain), parse_qa) if not isinstance(row, Problem))
    complete = ((qa, texts[:k]) for qa, texts in grouped.values() if len(texts) >= k)
    for _ in range(steps):
        batch = [Item(qa, tuple(texts), tuple(islice(kept, k))) for qa, texts in islice(complete, questions)]
        yield batch


def gemm_peak(dtype: torch.dtype, size: int = 2048, repeats: int = 6) -> float:
    """FLOP/s of a square matrix multiply, the best of several."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times)


def model_flops(policy: PolicyEngine, batch: TrainBatch) -> float:
    """Of forward and backward: 6 per weight and token, the vocabulary projection on response tokens alone."""
    config = policy.scorer.model.config
    projection = config.vocab_size * config.hidden_size
    numels = [getattr(p, "ds_numel", p.numel()) for p in policy.scorer.parameters()]
    embeddings = projection * (1 if config.tie_word_embeddings else 2)
    body = sum(numels) - embeddings
    return 6.0 * (body * batch.packed.input_ids.numel() + projection * len(batch.packed.targets))


def step(
    policy: PolicyEngine,
    batch: TrainBatch,
    config: RunConfig,
    reference: torch.Tensor,
    totals: Totals | None = None,
    last: bool = True,
) -> tuple[float, float, float]:
    """(forward and backward, optimizer) in seconds, and the loss; of one micro-batch of those that make `totals`."""
    totals = totals or Totals(len(batch.alternate), batch.retain_tokens)
    begin = time.perf_counter()
    log_probs, _ = policy.forward(batch.packed)
    sums = response_sums(log_probs, batch.packed.response, len(batch.packed.counts))
    pair = (sums[batch.alternate], sums[batch.forget], sums[batch.retain])
    loss, _ = objective(config.objective, Scores(*pair, reference[batch.alternate], reference[batch.forget]), totals)
    policy.backward(loss, last)
    middle = time.perf_counter()
    policy.step()
    return middle - begin, time.perf_counter() - middle, float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True)
    parser.add_argument("--retain", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--k", type=int, default=5, help="alternates of a question")
    parser.add_argument("--deepspeed", default="zero3_cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = start(600)
    questions = max(1, options.pairs // options.k)
    config = RunConfig(
        run_dir="unused",
        model=ModelConfig(path=options.model),
        engine={"deepspeed": options.deepspeed},  # pyright: ignore[reportArgumentType]
        train={"global_batch_size": questions, "micro_batch_size": questions, "lr": 1e-5, "warmup": 0},  # pyright: ignore[reportArgumentType]
    )
    policy = policy_engine(config, Batch(questions, 1, 1, questions), options.steps, world)
    chat = ChatTokenizer(load_tokenizer(options.model))
    k = min(options.k, options.pairs)
    steps = items(options.forget, options.retain, k, questions, options.steps)
    batches = [train_batch([example for item in step for example in examples(chat, item)]) for step in steps]
    references = []
    with torch.no_grad():
        for batch in batches:
            log_probs, _ = policy.forward(batch.packed)
            references.append(response_sums(log_probs, batch.packed.response, len(batch.packed.counts)))
    peak = gemm_peak(torch.float32)
    timed = [step(policy, batch, config, reference) for batch, reference in zip(batches, references, strict=True)]
    counted = list(zip(timed, batches, strict=True))[min(WARM_UP, len(batches) - 1) :]
    fractions = [model_flops(policy, batch) / seconds / peak for (seconds, _, _), batch in counted]
    result = {
        "step_s": round(statistics.median(fb + opt for (fb, opt, _), _ in counted), 3),
        "forward_backward_s": round(statistics.median(fb for (fb, _, _), _ in counted), 3),
        "optimizer_s": round(statistics.median(opt for (_, opt, _), _ in counted), 3),
        "loss": round(timed[-1][2], 6),
        "unique_tokens": round(statistics.mean(batch.unique_tokens for _, batch in counted)),
        "peak_rss_gib": round(peak_memory_gib(torch.device("cpu")), 2),
        "gemm_peak_fraction": round(statistics.median(fractions), 3),
        "pairs": options.pairs,
        "deepspeed": options.deepspeed,
    }
    print(json.dumps(result))
    stop()


if __name__ == "__main__":
    main()
