"""Compares the predictions of `altpo-ds plan` with real short runs under gloo: memory, checkpoint, bytes moved.

    python -m benchmarks.plan [--model DIR ...] [--ranks 1 2 4] [--deepspeed zero3_cpu zero2 zero0] [--tokens 600]

Without --model two models with random weights are made: the demo's size and one of 50 million parameters. Memory is a
rank's peak above what it held before the model was there, as a mean over ranks. Prints one JSON line.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from altpo_ds.config.batch import Batch
from altpo_ds.config.deepspeed import deepspeed_dict, deepspeed_file
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.trees import PackedTrees, Tree, pack
from altpo_ds.engine import onednn
from altpo_ds.plan.cost import checkpoint_bytes, traffic
from altpo_ds.plan.held import on_cpu, peak
from altpo_ds.plan.load import Load
from altpo_ds.plan.memory import memory
from altpo_ds.plan.shape import model_shape

ROOT = Path(__file__).parents[1]
STEPS = 3
SIZES = {"demo": (64, 4, 192, 1000), "50M": (512, 8, 1408, 32000)}  # width, layers, feed-forward, vocabulary


def make_model(folder: Path, width: int, layers: int, inner: int, vocabulary: int) -> str:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        vocab_size=vocabulary,
        num_attention_heads=width // 64 * 2,
        num_key_value_heads=width // 64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def trees(tokens: int) -> list[Tree]:
    """One question with five alternates and five retain rows, of about `tokens` tokens together."""
    unit = tokens // 12  # a prompt and six responses, five rows of a prompt and a response half as long
    row, half = tuple(range(5, 5 + unit)), tuple(range(5, 5 + unit // 2))
    return [Tree(row, (row,) * 6), *[Tree(half, (half,))] * 5]


def with_logger(name: str, folder: Path) -> str:
    """The DeepSpeed file with its communication logger on."""
    settings = json.loads(deepspeed_file(name).read_text())
    settings["comms_logger"] = {"enabled": True, "prof_all": True, "verbose": False, "debug": False}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(settings))
    return str(file)


def run_config(model: str, deepspeed: str, ranks: int) -> RunConfig:
    train = {"global_batch_size": ranks, "lr": 1e-5}
    return RunConfig.model_validate(
        {"run_dir": "unused", "model": {"path": model}, "engine": {"deepspeed": deepspeed}, "train": train}
    )


def high_water() -> int:
    """Bytes of this process's peak since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def reset_high_water() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def warm_up(model: str, packed: PackedTrees) -> None:
    """One layer of the model forward and backward: the code that oneDNN generates for these shapes is library too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from altpo_ds.engine.scorer import SequenceScorer

    config = AutoConfig.from_pretrained(model)
    config.num_hidden_layers = 1
    scorer = SequenceScorer(AutoModelForCausalLM.from_config(config))
    scorer(packed)[0].mean().backward()


def put(state: Any, file: Path) -> None:
    """Writes a shard as it comes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)


def measure(model: str, deepspeed: str, tokens: int, folder: Path) -> dict[str, Any]:
    """On one rank of a group: peaks while loading and while training, messages of a step, bytes of a checkpoint."""
    from deepspeed.comm.comm import comms_logger

    from altpo_ds.engine.build import policy_engine
    from altpo_ds.engine.distributed import gather_objects, start, stop
    from altpo_ds.engine.zero import PolicyEngine

    world = start(600)
    packed = pack(trees(tokens))
    batch = Batch(1, 1, world.size, world.size)

    def train(path: str) -> tuple[PolicyEngine, int]:
        policy = policy_engine(run_config(path, deepspeed, world.size), batch, STEPS, world)
        loaded = high_water()
        reset_high_water()
        for _ in range(STEPS):
            comms_logger.reset_data()
            log_probs, _ = policy.forward(packed)
            policy.backward(-log_probs.mean())
            policy.step()
        return policy, loaded

    warm_up(model, packed)
    train(str(folder / "tiny"))  # what is imported, built and cached on the way counts as library, not as model
    gc.collect()
    before = reset_high_water()
    policy, loaded = train(model)
    loading, training = loaded - before, high_water() - before
    messages = {
        name: sum(size * entry[0] for size, entry in sizes.items())
        for name, sizes in comms_logger.get_raw_data().items()
    }
    (folder / "checkpoint").mkdir(exist_ok=True)
    policy.save(folder / "checkpoint", put)
    measured = gather_objects((loading, training))
    stop()
    stored = sum(file.stat().st_size for file in (folder / "checkpoint").rglob("*") if file.is_file())
    result = {"loading": max(m[0] for m in measured), "training": sum(m[1] for m in measured) // world.size}
    return result | {"messages": messages, "checkpoint": stored}


def predict(model: str, deepspeed: str, ranks: int, tokens: int) -> dict[str, Any]:
    """The same by the formulas of `plan`."""
    packed = pack(trees(tokens))
    config = run_config(model, deepspeed, ranks)
    settings = deepspeed_dict(config, Batch(1, 1, ranks, ranks), has_gpu=False)
    shape = model_shape(model, torch.float32, gpu=False)
    load = Load(ranks, packed.input_ids.numel(), len(packed.targets), 1, 4, cpu=True, onednn=onednn.pays())
    needed = on_cpu(memory(shape, settings, load, {})).host
    moved = traffic(shape, settings, load, {})
    return {
        "training": peak(needed),
        "checkpoint": checkpoint_bytes(shape, settings, load),
        "received": moved.total,
        "parameters": shape.parameters,
        "parts": needed,
    }


def in_processes(module: str, ranks: int, *arguments: str, exact_memory: bool = True) -> dict[str, Any]:
    """A benchmark's worker on so many ranks, with one thread each; what rank 0 prints last."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if exact_memory:
        # glibc keeps freed memory of its heap: every tensor is mapped by itself, so that it goes when it is freed
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, *launcher, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--deepspeed", nargs="*", default=["zero3_cpu"])
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--worker", nargs=3, metavar=("MODEL", "FILE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        model, deepspeed, folder = options.worker
        result = measure(model, deepspeed, options.tokens, Path(folder))
        if os.environ["RANK"] == "0":
            print(json.dumps(result), flush=True)
        os._exit(0)  # gloo's threads may abort an interpreter that ends
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = options.model or [make_model(folder / size, *shape) for size, shape in SIZES.items()]
        results = []
        for model in models:
            for deepspeed in options.deepspeed:
                for ranks in options.ranks:
                    file = with_logger(deepspeed, folder)
                    case = folder / f"{Path(model).name}-{deepspeed}-{ranks}"
                    make_model(case / "tiny", 64, 1, 64, 100)
                    measured = in_processes(
                        "benchmarks.plan", ranks, "--worker", model, file, str(case), "--tokens", str(options.tokens)
                    )
                    predicted = predict(model, file, ranks, options.tokens)
                    named = {"model": Path(model).name, "deepspeed": deepspeed, "ranks": ranks}
                    errors = {
                        f"{what}_error": round(predicted[what] / measured[what] - 1, 3)
                        for what in ("training", "checkpoint")
                    }
                    results.append(named | errors | {"measured": measured, "predicted": predicted})
                    print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    worst = max(abs(result["training_error"]) for result in results)
    print(json.dumps({"worst_memory_error": worst, "results": results}))


if __name__ == "__main__":
    main()
