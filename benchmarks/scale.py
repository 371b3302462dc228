"""Time and memory of a training step as one thing grows: tokens of a step, alternates of a question, or rows.

    python -m benchmarks.scale --part tokens --model DIR --forget FILE --retain FILE [--times 1 2 4 8 16]
        [--limit TOKENS]
    python -m benchmarks.scale --part k --model DIR --forget FILE --retain FILE
    python -m benchmarks.scale --part rows --model DIR --forget FILE --retain FILE [--rows 10000 100000 1000000]

FILE of --forget holds questions, answers and alternates. `tokens`: one micro-batch of so many questions, each with five
alternates and five retain rows; with --limit in as many micro-batches as `train.micro_batch_tokens` makes of them. `k`:
two questions with 1 to 16 alternates each and always the same retain rows. Their steps are those of
benchmarks/step.py, under `zero3_cpu`, the first of each size not counted. `rows`: 20 steps of `altpo-ds unlearn` with a
small model of random weights, DIR's tokenizer, and retain rows repeated to so many. Prints one JSON line. As ranks
grow: benchmarks/traffic.py.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from math import inf
from pathlib import Path
from typing import Any

import torch

from altpo_ds.config.batch import Batch
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.balance import balance_within
from altpo_ds.data.batches import TrainBatch, examples, train_batch
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.stream import Item
from altpo_ds.engine.build import policy_engine
from altpo_ds.engine.distributed import start, stop
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.objective.compose import Totals
from benchmarks.plan import high_water, make_model, reset_high_water, run_config
from benchmarks.startup import first_step, settings
from benchmarks.step import WARM_UP, items, step

KS = (1, 2, 3, 5, 8, 16)
K, COUNTED = 5, 2  # alternates of a question; steps of each size after the first
GIB = 2**30


def micro_batches(chat: ChatTokenizer, content: Sequence[Item], limit: float) -> list[TrainBatch]:
    """All items in one micro-batch, or in as few as keep within `limit` tokens."""
    pool = [example for item in content for example in examples(chat, item)]
    groups = balance_within([example.tree.unique_tokens for example in pool], 1, 1, limit)
    return [train_batch([pool[i] for i in group]) for group in groups]


def whole_step(policy: PolicyEngine, batches: Sequence[TrainBatch], config: RunConfig) -> float:
    """Seconds of an optimizer step over micro-batches."""
    totals = Totals(sum(len(batch.alternate) for batch in batches), sum(batch.retain_tokens for batch in batches))
    seconds = 0.0
    for batch in batches:
        unknown = torch.zeros(len(batch.packed.counts))  # the reference's values cost no time
        seconds += sum(step(policy, batch, config, unknown, totals, batch is batches[-1])[:2])
    return seconds


def timed_sizes(model: str, sizes: Sequence[tuple[int, list[Item]]], limit: float = inf) -> list[dict[str, Any]]:
    """Median seconds and peak memory of the steps over each list of items, named by its size."""
    world = start(600)
    config = run_config(model, "zero3_cpu", 1)
    policy = policy_engine(config, Batch(1, 1, 1, 1), WARM_UP + len(sizes) * (1 + COUNTED), world)
    chat = ChatTokenizer(load_tokenizer(model))
    results = []
    for number, (size, content) in enumerate(sizes):
        batches = micro_batches(chat, content, limit)
        for _ in range(1 if number else 1 + WARM_UP):
            whole_step(policy, batches, config)
        gc.collect()
        reset_high_water()
        seconds = statistics.median(whole_step(policy, batches, config) for _ in range(COUNTED))
        found = {"size": size, "unique_tokens": sum(batch.unique_tokens for batch in batches), "passes": len(batches)}
        results.append(found | {"step_s": round(seconds, 3), "peak_gib": round(high_water() / GIB, 2)})
    stop()
    return results


def tokens(options: argparse.Namespace) -> list[dict[str, Any]]:
    """More questions in one micro-batch."""
    (content,) = items(options.forget, options.retain, K, max(options.times), 1)
    return timed_sizes(options.model, [(times, content[:times]) for times in options.times], options.limit)


def alternates(options: argparse.Namespace) -> list[dict[str, Any]]:
    """More alternates of two questions; beyond their own they borrow other questions'."""
    (content,) = items(options.forget, options.retain, K, 8, 1)
    texts = [text for item in content for text in item.alternates]
    beside = [item.retain[:1] for item in content[:2]]

    def grown(k: int) -> list[Item]:
        return [Item(content[i].forget, tuple(islice(texts, i * K, i * K + k)), beside[i]) for i in range(2)]

    return timed_sizes(options.model, [(k, grown(k)) for k in KS])


def grown_file(source: Path, count: int, target: Path) -> str:
    """The rows of a file again and again, numbered, as a JSONL of `count` rows."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    with target.open("w") as file:
        for number, row in enumerate(islice(cycle(rows), count)):
            file.write(json.dumps(row | {"question": f"{row['question']} ({number})"}) + "\n")
    return str(target)


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """More retain rows in a file that is streamed; ten questions are forgotten."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model", 64, 2, 192, 49152)
        for file in Path(options.model).glob("*token*"):
            shutil.copy(file, model)
        for file in Path(options.model).glob("*.jinja"):
            shutil.copy(file, model)
        forget = folder / "forget.jsonl"
        forget.write_text("\n".join(Path(options.forget).read_text().splitlines()[: 10 * K]))
        os.environ["ALTPO_CACHE"] = name  # nobody wants the reference of a random model later
        for count in options.rows:
            retain = grown_file(Path(options.retain), count, folder / "retain.jsonl")
            run = settings(model, forget=str(forget), alternates=str(forget), retain=retain)
            found = first_step(run, steps=20)
            results.append({"size": count} | {stage: round(value, 2) for stage, value in found.items()})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"tokens": tokens, "k": alternates, "rows": rows}
    parser.add_argument("--part", choices=parts, required=True)
    for name in ("model", "forget", "retain"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--times", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--limit", type=float, default=inf, help="most tokens of a micro-batch, for --part tokens")
    parser.add_argument("--rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    print(json.dumps({"part": options.part, "sizes": parts[options.part](options)}))


if __name__ == "__main__":
    main()
