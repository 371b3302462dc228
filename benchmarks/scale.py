"""Time and memory of a training step as one thing grows: tokens of a step, alternates of a question, rows, or ranks.

    python -m benchmarks.scale --part tokens --model DIR --forget FILE --retain FILE [--times 1 2 4 8 16]
        [--limit TOKENS]
    python -m benchmarks.scale --part k --model DIR --forget FILE --retain FILE
    python -m benchmarks.scale --part ranks --model DIR --forget FILE --retain FILE [--ranks 1 2 4]
    python -m benchmarks.scale --part rows --model DIR --forget FILE --retain FILE [--rows 10000 100000 1000000]

FILE of --forget holds questions, answers and alternates. `tokens`: one micro-batch of so many questions, each with five
alternates and five retain rows; with --limit in as many micro-batches as `train.micro_batch_tokens` makes of them. `k`:
two questions with 1 to 16 alternates each and always the same retain rows. Their steps are those of
benchmarks/step.py, under `zero3_cpu`, the first of each size not counted. `rows`: 20 steps of `altpo-ds unlearn` with a
small model of random weights, DIR's tokenizer, and retain rows repeated to so many. `ranks`: four questions shared out
over ranks with one thread each; seconds are those of a rank's processor, bytes those that it receives. Prints one
JSON line.
"""

import argparse
import gc
import json
import os
import resource
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
from altpo_ds.data.balance import balance, balance_within, turns
from altpo_ds.data.batches import TrainBatch, examples, train_batch
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.stream import Item
from altpo_ds.engine.build import policy_engine
from altpo_ds.engine.distributed import gather_objects, start, stop
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.objective.compose import Totals
from benchmarks.plan import high_water, in_processes, make_model, reset_high_water, run_config, with_logger
from benchmarks.startup import first_step, settings
from benchmarks.step import WARM_UP, items, step
from benchmarks.traffic import received

KS = (1, 2, 3, 5, 8, 16)
K, COUNTED = 5, 2  # alternates of a question; steps of each size after the first
QUESTIONS = 4  # of a step that ranks share out
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


def processor_seconds() -> float:
    """Of this process and its threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rank_step(options: argparse.Namespace) -> dict[str, Any]:
    """On one rank: medians over the steps, sums or maxima over the ranks."""
    from deepspeed.comm.comm import comms_logger

    world = start(600)
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(options.model, with_logger("zero3_cpu", Path(folder)), world.size)
        share = QUESTIONS // world.size
        policy = policy_engine(config, Batch(share, 1, world.size, QUESTIONS), WARM_UP + COUNTED, world)
    chat = ChatTokenizer(load_tokenizer(options.model))
    (content,) = items(options.forget, options.retain, K, QUESTIONS, 1)
    pool = [example for item in content for example in examples(chat, item)]
    groups = balance([example.tree.unique_tokens for example in pool], world.size)
    (mine,) = turns(groups, world.rank, world.size)
    batch = train_batch([pool[i] for i in mine])
    unknown = torch.zeros(len(batch.packed.counts))  # the reference's values cost no time
    parts = gather_objects((len(batch.alternate), batch.retain_tokens))
    totals = Totals(sum(part[0] for part in parts), sum(part[1] for part in parts))
    seconds: list[float] = []
    for number in range(WARM_UP + COUNTED):
        if number == WARM_UP:
            gc.collect()
            reset_high_water()
        comms_logger.reset_data()
        gather_objects(None)  # all begin together
        begin = processor_seconds()
        step(policy, batch, config, unknown, totals)
        seconds.append(processor_seconds() - begin)
    of_rank = statistics.median(seconds[WARM_UP:])
    found = gather_objects((of_rank, high_water() / GIB))
    moved = {name: round(size / 2**20) for name, size in received(world.size).items() if name != "calls"}
    stop()
    each = [round(seconds, 2) for seconds, _ in found]
    peak = round(max(gib for _, gib in found), 2)
    return {"ranks": world.size, "cpu_s": each, "peak_gib": peak, "mib": moved}


def ranks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """More ranks for the same global batch; `relative` is their processor seconds together, of one rank 1."""
    files = ("--model", options.model, "--forget", options.forget, "--retain", options.retain)
    results: list[dict[str, Any]] = []
    for count in options.ranks:
        found = in_processes("benchmarks.scale", count, "--part", "ranks", *files, "--worker", exact_memory=False)
        found["total_cpu_s"] = round(sum(found["cpu_s"]), 2)
        first = results[0] if results else found
        results.append(found | {"relative": round(found["total_cpu_s"] / first["total_cpu_s"], 3)})
    return results


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
    parts = {"tokens": tokens, "k": alternates, "rows": rows, "ranks": ranks}
    parser.add_argument("--part", choices=parts, required=True)
    for name in ("model", "forget", "retain"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--times", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--limit", type=float, default=inf, help="most tokens of a micro-batch, for --part tokens")
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    if options.worker:
        result = rank_step(options)
        if os.environ["RANK"] == "0":
            print(json.dumps(result), flush=True)
        os._exit(0)  # gloo's threads may abort an interpreter that ends
    print(json.dumps({"part": options.part, "sizes": parts[options.part](options)}))


if __name__ == "__main__":
    main()
