"""Counts what ZeRO-3 moves in an optimizer step: ours, one packed pass with a cached reference, and the five-pass form.

    python -m benchmarks.traffic [--ranks 2 4]

The five-pass form is the usual one: three policy forwards (alternates, original answers, retain rows) and two reference
forwards over padded pairs. Both see the same question with five alternates and five retain rows a rank, on a model with
random weights, counted by DeepSpeed's communication logger in a step whose trace of modules is complete. Twice each:
with the limits of the DeepSpeed file (`kept`: a small model stays gathered until its backward pass), and with limits
of 0 (`released`: as in a model far larger than them). Prints one JSON line.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed import deepspeed_file
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.trees import Tree, pack
from benchmarks.plan import in_processes, make_model

STEPS = 4  # the first records nothing, the second the trace; fetching ahead settles in the third
TIGHT = ("stage3_max_reuse_distance", "stage3_max_live_parameters", "stage3_prefetch_bucket_size")

QUESTION, RETAIN = tuple(range(5, 25)), tuple(range(30, 45))
ANSWERS = tuple(tuple(range(50 + i, 80 + i)) for i in range(6))  # the original, then five alternates
ROWS = [Tree(RETAIN, (tuple(range(60 + i, 85 + i)),)) for i in range(5)]


def deepspeed_files(folder: Path, released: bool) -> tuple[str, str]:
    """Files of policy and reference with the communication logger on."""
    names = []
    for name in ("zero3_cpu", "reference"):
        settings = json.loads(deepspeed_file(name).read_text())
        settings["comms_logger"] = {"enabled": True, "prof_all": True, "verbose": False, "debug": False}
        settings["zero_optimization"] |= {"stage3_param_persistence_threshold": 0}
        if released:
            settings["zero_optimization"] |= dict.fromkeys(TIGHT, 0)
        file = folder / f"{name}.json"
        file.write_text(json.dumps(settings))
        names.append(str(file))
    return names[0], names[1]


def received(ranks: int) -> dict[str, float]:
    """Bytes that a rank received since the last reset; the logger has an all-gather's input, and a scatter's."""
    from deepspeed.comm.comm import comms_logger

    logged = comms_logger.get_raw_data()

    def total(name: str) -> int:
        return sum(size * entry[0] for size, entry in logged.get(name, {}).items())

    return {
        "gathered": total("all_gather_into_tensor") * (ranks - 1),
        "reduced": total("reduce_scatter_tensor") * (ranks - 1) / ranks,
        "calls": sum(entry[0] for sizes in logged.values() for entry in sizes.values()),
    }


def counted(step: Callable[[], None], ranks: int) -> dict[str, float]:
    from deepspeed.comm.comm import comms_logger

    for _ in range(STEPS):
        comms_logger.reset_data()
        step()
    return received(ranks)


def measure(model: str, folder: Path, released: bool, five: bool) -> dict[str, Any]:
    """On a rank: a step of one form; gathers as multiples of all parameters."""
    from altpo_ds.engine.build import policy_engine, reference_engine
    from altpo_ds.engine.distributed import start, stop
    from altpo_ds.objective.log_probs import response_sums

    world = start(600)
    policy_file, reference_file = deepspeed_files(folder, released)
    settings = {
        "run_dir": "unused",
        "model": {"path": model, "attention": "padded" if five else "tree"},
        "engine": {"deepspeed": policy_file},
        "reference": {"deepspeed": reference_file},
        "train": {"global_batch_size": world.size},
    }
    config = RunConfig.model_validate(settings)
    policy = policy_engine(config, Batch(1, 1, world.size, world.size), STEPS, world)
    alternates = pack([Tree(QUESTION, (answer,)) for answer in ANSWERS[1:]])
    originals = pack([Tree(QUESTION, (ANSWERS[0],))] * len(ANSWERS[1:]))
    reference = reference_engine(config, model, world) if five else None

    def packed_step() -> None:
        log_probs, _ = policy.forward(pack([Tree(QUESTION, ANSWERS), *ROWS]))
        policy.backward(-log_probs.mean())
        policy.step()

    def five_pass_step() -> None:
        assert reference is not None
        scores = [policy.forward(batch)[0] for batch in (alternates, originals, pack(ROWS))]
        frozen = [reference.forward(batch)[0] for batch in (alternates, originals)]
        pairs = [
            response_sums(ours - theirs, batch.response, len(batch.counts)).mean()
            for ours, theirs, batch in zip(scores, frozen, (alternates, originals), strict=False)
        ]
        policy.backward(pairs[1] - pairs[0] - scores[2].mean())
        policy.step()

    bytes_ = counted(five_pass_step if five else packed_step, world.size)
    whole = 4 * sum(p.ds_numel for p in policy.scorer.parameters()) * (world.size - 1) / world.size  # pyright: ignore[reportAttributeAccessIssue]
    stop()
    return bytes_ | {"gathers_of_all": bytes_["gathered"] / whole, "reductions_of_all": bytes_["reduced"] / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--worker", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--released", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--five", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder = Path(options.worker[1]) / f"rank-{os.environ['RANK']}"
        folder.mkdir(exist_ok=True)
        result = measure(options.worker[0], folder, options.released, options.five)
        if os.environ["RANK"] == "0":
            print(json.dumps(result), flush=True)
        os._exit(0)  # gloo's threads may abort an interpreter that ends
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        model = make_model(Path(name) / "model", 64, 4, 192, 1000)
        for ranks in options.ranks:
            for limits in ("released", "kept"):
                flag = ["--released"] if limits == "released" else []
                ours = in_processes("benchmarks.traffic", ranks, "--worker", model, name, *flag)
                five = in_processes("benchmarks.traffic", ranks, "--worker", model, name, *flag, "--five")
                total = [form["gathered"] + form["reduced"] for form in (ours, five)]
                results[f"{limits}_{ranks}"] = {"packed": ours, "five_pass": five, "ratio": total[0] / total[1]}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
