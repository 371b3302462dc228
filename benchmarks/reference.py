"""Memory of the online reference above its shard, beside the largest parameter that a pass has to gather.

    python -m benchmarks.reference [--model DIR] [--ranks 2] [--reference reference] [--tokens 24]

Forward passes of the reference engine under gloo, the first two of which trace the modules. Few tokens leave the
parameters alone to be seen. Without --model one with random weights is made, of 56 million parameters. Memory is a
rank's peak above what it held before the model was there, as a mean over ranks. Prints one JSON line.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed import deepspeed_dict
from altpo_ds.config.schema import ReferenceConfig
from altpo_ds.data.trees import pack
from altpo_ds.plan.load import Load
from altpo_ds.plan.memory import memory
from altpo_ds.plan.shape import model_shape
from benchmarks.plan import SIZES, high_water, in_processes, make_model, reset_high_water, run_config, trees

PASSES = 8


def measure(model: str, reference: str, tokens: int, folder: Path) -> dict[str, Any]:
    """On one rank of a group: the peak of the passes, and the seconds of one."""
    from altpo_ds.engine.build import reference_engine
    from altpo_ds.engine.distributed import gather_objects, start, stop

    world = start(600)
    packed = pack(trees(tokens))

    def score(path: str) -> tuple[int, float]:
        config = run_config(path, "zero3_cpu", world.size)
        config = config.model_copy(update={"reference": ReferenceConfig(deepspeed=reference)})
        engine = reference_engine(config, path, world)
        gc.collect()
        reset_high_water()  # what loading takes is not counted
        seconds = []
        for _ in range(PASSES):
            begin = time.perf_counter()
            engine.forward(packed)
            seconds.append(time.perf_counter() - begin)
        return high_water(), statistics.median(seconds[2:])

    score(str(folder / "tiny"))  # what is imported and cached on the way counts as library
    gc.collect()
    before = reset_high_water()
    peak, seconds = score(model)
    peaks = gather_objects(peak - before)
    stop()
    return {"peak": sum(peaks) // world.size, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--reference", default="reference")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        result = measure(options.model, options.reference, options.tokens, Path(options.worker))
        if os.environ["RANK"] == "0":
            print(json.dumps(result), flush=True)
        os._exit(0)  # gloo's threads may abort an interpreter that ends
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or make_model(folder / "model", *SIZES["50M"])
        make_model(folder / "tiny", 64, 1, 64, 100)
        arguments = ("--worker", name, "--model", model, "--reference", options.reference)
        measured = in_processes("benchmarks.reference", options.ranks, *arguments, "--tokens", str(options.tokens))
        config = run_config(model, "zero3_cpu", options.ranks)
        config = config.model_copy(update={"reference": ReferenceConfig(deepspeed=options.reference)})
        batch = Batch(1, 1, options.ranks, options.ranks)
        settings = deepspeed_dict(config, batch, has_gpu=False, reference=True)
        shape = model_shape(model, torch.float32, gpu=False)
    load = Load(options.ranks, options.tokens, options.tokens, 1, 4, cpu=True, online_reference=True)
    predicted = memory(shape, {}, load, settings)
    shard = predicted.host["forward"]["reference"]
    above = predicted.device["backward"].get("reference gathered", 0)
    sizes = {"shard": shard, "above_shard": measured["peak"] - shard, "largest": 4 * max(shape.numels)}
    print(json.dumps(measured | sizes | {"predicted_above": above}))


if __name__ == "__main__":
    main()
