"""A tiny model with its data, and the command line on one or several ranks, for every room's tests."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from altpo_ds.engine.distributed import World

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and golden values that lie beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside the project: real data and golden values are not here")
    return SHARED


# options of a run whose alternates are sampled anew from a moving average of its policy
REFRESHED = {
    "reference__mode": "online",
    "alternates__refresh_every": 2,
    "alternates__refresh_average": 0.5,
    "alternates__max_new_tokens": 24,
    "alternates__min_rouge": 0,
}


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass(frozen=True)
class Tiny:
    """A model directory and the files of a small run: 12 forget, 30 retain questions."""

    model: Path
    forget: Path
    alternates: Path
    retain: Path
    perturbed: Path

    def options(self, run_dir: Path, **more: object) -> list[str]:
        """Dotted options of an unlearning run; `more` has __ for dots."""
        named: dict[str, object] = {
            "run_dir": run_dir,
            "model.path": self.model,
            "data.forget.path": self.forget,
            "data.alternates.path": self.alternates,
            "data.retain.path": self.retain,
            "data.train.path": self.retain,
            "data.alternates_per_question": 2,
            "train.global_batch_size": 4,
            "train.lr": 0.001,
            "tracking.wandb": "false",
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        return [f"--{key}={value}" for key, value in named.items()]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Made once a session; tests only read it."""
    from altpo_ds.demo.model import build_model, build_tokenizer, save

    folder = tmp_path_factory.mktemp("tiny")
    cities = ["Norwick", "Elmstead", "Port Avel", "Sundby", "Marlow", "Quill Bay"]

    def row(i: int) -> dict[str, Any]:
        question, city = f"Where was author number {i} born?", cities[i % len(cities)]
        others = [f"Author {i} comes from {cities[(i + j) % len(cities)]}." for j in (1, 2, 3)]
        return {
            "question": question,
            "answer": f"Author number {i} was born in {city}.",
            "alternates": [f"Author number {i} was born in {cities[(i + j) % len(cities)]}." for j in (1, 2, 3)],
            "paraphrased_answer": f"Author {i} comes from {city}.",
            "perturbed_answer": others,
        }

    rows = [row(i) for i in range(42)]
    forget, retain = rows[:12], rows[12:]
    tokenizer = build_tokenizer([r["question"] + r["answer"] for r in rows], vocab_size=400)
    save(build_model(tokenizer, seed=0), tokenizer, folder / "model")
    plain = [{key: r[key] for key in ("question", "answer")} for r in rows]
    return Tiny(
        model=folder / "model",
        forget=write_jsonl(folder / "forget.jsonl", plain[:12]),
        alternates=write_jsonl(
            folder / "alternates.jsonl", ({k: r[k] for k in ("question", "answer", "alternates")} for r in forget)
        ),
        retain=write_jsonl(folder / "retain.jsonl", plain[12:]),
        perturbed=write_jsonl(folder / "perturbed.jsonl", [*forget, *retain][:20]),
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator["World"]:
    """A process group of one, in the tests' own process."""
    from altpo_ds.engine.distributed import start, stop

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield start(60)
    stop()
    os.environ.clear()
    os.environ.update(before)


@dataclass(frozen=True)
class Command:
    """Runs `altpo-ds VERB RUN.yaml OPTIONS`; the run file is empty but for its two required keys."""

    folder: Path

    def __call__(
        self, verb: str, options: list[str], ranks: int = 1, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._run(["-m", "altpo_ds", verb, str(self._run_file()), *options], ranks, env or {})

    def many(self, calls: list[tuple[str, list[str]]], ranks: int = 1) -> subprocess.CompletedProcess[str]:
        """Several commands in the same processes."""
        file = self.folder / f"calls-{ranks}.json"
        file.write_text(json.dumps([[verb, str(self._run_file()), *options] for verb, options in calls]))
        return self._run(["-m", "tests.many", str(file)], ranks, {})

    def _run_file(self) -> Path:
        file = self.folder / "run.yaml"
        file.write_text("run_dir: unused\nmodel: {path: unused}\n")
        return file

    def _run(self, entry: list[str], ranks: int, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        if ranks > 1:
            entry = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *entry]
        cache = {"OMP_NUM_THREADS": "1", "ALTPO_CACHE": str(self.folder / "cache")}
        environment = os.environ | cache | dict(env)
        command = [sys.executable, *entry]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=ROOT)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command line in processes of its own: one, or one per rank under torchrun."""
    return Command(tmp_path)


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses_of(run_dir: Path) -> list[float]:
    """Training losses, one a step."""
    return [line["train/loss"] for line in metrics_of(run_dir) if "train/loss" in line]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL of a real server, and the small model's name on it; it serves any other model directory as well."""
    import httpx

    from altpo_ds.smollm2 import NAME, cache_folder

    pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
    source = cache_folder() / NAME
    if not source.is_dir():
        pytest.skip("the small model is not here; `make smollm2` prepares it")
    model = tmp_path_factory.mktemp("serve") / "small"
    model.mkdir()
    for file in source.iterdir():
        if file.name != "generation_config.json":
            (model / file.name).symlink_to(file)
    generation = json.loads((source / "generation_config.json").read_text())
    # The server samples only where the model's own configuration says so.
    (model / "generation_config.json").write_text(json.dumps(generation | {"do_sample": True}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--dtype", "float32"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except httpx.TransportError:
                assert process.poll() is None, "transformers serve ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        process.terminate()
        process.wait(timeout=30)
