"""2,540 damaged inputs: each is one line that names place and remedy, or works; none crashes or hangs.

The damage is drawn from seeds: case N of a test is the same on every machine.
"""

import contextlib
import csv
import gzip
import io
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.lib import ArrowException

from altpo_ds import cli
from altpo_ds.alternates.prompts import load_prompt
from altpo_ds.alternates.question import Question, Sample
from altpo_ds.alternates.report import read_groups
from altpo_ds.alternates.run import count_questions
from altpo_ds.alternates.store import CompleteShards, Shard
from altpo_ds.alternates.summary import read_summary
from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import EvaluateConfig
from altpo_ds.config.keys import dotted_keys
from altpo_ds.config.schema import AlternatesSource, DataConfig, ModelConfig, RetainSource, RunConfig
from altpo_ds.config.section import PerturbedSource, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.check import check_share, decide, merge
from altpo_ds.engine import manifest
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.reference_cache import ReferenceCache
from altpo_ds.evaluate.inputs import read_examples
from altpo_ds.evaluate.runs import read_run
from tests.conftest import ROOT, Tiny
from tests.mutations import TEXTS, VALUES, damaged_bytes, damaged_value

pytestmark = pytest.mark.slow

SECONDS = 20  # that a case may take on a busy machine; most take milliseconds
ROWS = [
    {
        "question": f"Where was author {i} born?",
        "answer": f"Author {i} was born in Oslo.",
        "alternates": ["In Lima.", "In Rom."],
        "paraphrased_answer": "It was Oslo.",
        "perturbed_answer": ["Rom", "Bonn"],
    }
    for i in range(5)
]


@contextlib.contextmanager
def limited(case: object) -> Iterator[None]:
    """Fails a case that hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"case {case} took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(case: object, call: Callable[[], object]) -> str | None:
    """The one line of a refused input, None for an accepted one; whatever else is raised fails the test."""
    with limited(case):
        try:
            call()
            return None
        except UserError as error:
            line = str(error)
    assert "\n" not in line, f"case {case}: {line}"
    return line


def run(case: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | None:
    """As `refusal`, of a command line in this process."""
    monkeypatch.setattr("sys.argv", ["altpo-ds", *arguments])
    err = io.StringIO()
    with limited(case), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main()
    line = err.getvalue()
    if status == 0:
        return None
    assert status == 2, f"case {case}: status {status}"
    assert line.startswith("altpo-ds: error: "), f"case {case}: {line}"
    assert line.endswith("\n")
    assert line[:-1].isprintable(), f"case {case}: {line!r}"
    return line


def json_lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    example = (ROOT / "examples" / "tofu_smollm2.yaml").read_bytes()
    tree = yaml.safe_load(example)
    keys, refused = list(dotted_keys()), 0
    for case in range(450):
        rng, options = Random(case), []
        if case % 3 == 0:
            file.write_bytes(damaged_bytes(example, rng))
        elif case % 3 == 1:
            file.write_text(yaml.safe_dump(damaged_value(tree, rng), allow_unicode=False))
        else:
            file.write_text("run_dir: a\nmodel: {path: m}\n")
            value = rng.choice(VALUES)
            options = [f"--{rng.choice(keys)}={value if isinstance(value, str) else json.dumps(value)}"]
        line = run(case, monkeypatch, "config", str(file), "--cpu", *options)
        if line is not None:
            refused += 1
            named = ("run.yaml", "option --", "train.", "DeepSpeed file", ".json", "[Errno")
            assert any(name in line for name in named), f"case {case}: {line}"
    assert 150 < refused < 440


def test_deepspeed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file, file = tmp_path / "run.yaml", tmp_path / "ds.json"
    run_file.write_text(f"run_dir: a\nmodel: {{path: m}}\nengine: {{deepspeed: {file}}}\n")
    whole = (ROOT / "ds_configs" / "zero3.json").read_text()
    for case in range(250):
        rng = Random(case)
        damaged = damaged_bytes(whole.encode(), rng) if case % 2 else json.dumps(damaged_value(json.loads(whole), rng))
        file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        line = run(case, monkeypatch, "config", str(run_file), "--cpu")
        assert line is None or str(file) in line, f"case {case}: {line}"


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from(sorted(dotted_keys())),
    value=st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(TEXTS), st.integers().map(str)),
)
def test_any_text_for_any_key(tmp_path_factory: pytest.TempPathFactory, key: str, value: str) -> None:
    from altpo_ds.config.load import dump_config, load_config

    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text("run_dir: a\nmodel: {path: m}\n")
    with contextlib.suppress(UserError):
        config = load_config(file, [f"--{key}={value}"])
        file.write_text(dump_config(config))
        assert load_config(file) == config


def write_damaged(folder: Path, rng: Random) -> Path:
    """A data file of any format, its rows damaged, or its bytes, or both."""
    rows = damaged_value(ROWS, rng)
    flat = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    ending = rng.choice(["jsonl", "jsonl", "jsonl.gz", "json", "csv", "parquet"])
    file = folder / f"rows.{ending}"
    if ending == "parquet":
        try:
            pd.DataFrame(flat).to_parquet(file)
        except (ValueError, TypeError, OverflowError, ArrowException):  # no such column type
            file.write_bytes(b"PAR1")
        content = file.read_bytes()
    elif ending == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(key for row in flat for key in row))
        writer.writeheader()
        writer.writerows(flat)
        content = text.getvalue().encode("utf-8", "surrogatepass")
    elif ending == "json":
        content = json.dumps(rows).encode()
    else:
        content = json_lines(rows).encode()
        if ending.endswith("gz") and rng.random() < 0.8:
            content = gzip.compress(content)
    file.write_bytes(damaged_bytes(content, rng) if rng.random() < 0.5 else content)
    return file


def check_data(file: Path, role: str, chat: ChatTokenizer, good: Path, on_error: Any) -> None:
    """Everything that reads rows, on two ranks where it matters."""
    path = str(file)
    if role == "evaluation":
        read_examples(EvaluateConfig(forget=PerturbedSource(path=path)), chat)
    elif role == "quality":
        list(read_groups(AlternatesSource(path=path)))
    elif role == "questions":
        data = DataConfig(forget=Source(path=path), on_error=on_error)
        count_questions(RunConfig(run_dir="a", model=ModelConfig(path="m"), data=data))
    else:
        paths = {name: path if name == role else str(good) for name in ("forget", "alternates", "retain")}
        data = DataConfig(
            forget=Source(path=paths["forget"]),
            alternates=AlternatesSource(path=paths["alternates"]),
            retain=RetainSource(path=paths["retain"]),
            on_error=on_error,
        )
        assert data.alternates is not None
        with contextlib.closing(AlternatesIndex(data.alternates)) as index:
            decide(data, merge([check_share(data, chat, index, rank, 2) for rank in range(2)]), unlearning=True)


@pytest.fixture(scope="module")
def chat(tiny: Tiny) -> ChatTokenizer:
    return ChatTokenizer(load_tokenizer(str(tiny.model)), None)


def test_data_and_alternates_files(tmp_path: Path, chat: ChatTokenizer) -> None:
    good, refused = tmp_path / "good.jsonl", 0
    good.write_text(json_lines(ROWS))
    for case in range(700):
        rng = Random(case)
        file = write_damaged(tmp_path, rng)
        role = rng.choice(["forget", "alternates", "retain", "evaluation", "quality", "questions"])
        on_error = rng.choice(["stop", "skip"])
        call = lambda: check_data(file, role, chat, good, on_error)  # noqa: B023, E731
        line = refusal(case, call)
        if line is not None:
            refused += 1
            # a question without alternates is named where it stands
            assert any(name in line for name in (file.name, good.name, f"data.{role}")), f"case {case}: {line}"
        file.unlink()
    assert 300 < refused < 780


def stored_run(run_dir: Path, rng: Random) -> None:
    """A run directory with one file damaged."""
    row = {"question": "q", "answer": "a", "generation": "g", "answer_nll": 0.5, "rouge_l": 0.5}
    row |= {"paraphrased_nll": 3.0, "perturbed_nll": [3.1, 2.9]}
    evaluation = {
        "metrics": {"forget_quality": 0.5, "model_utility": 0.4, "forget_rows": 2},
        "per_example": {"forget": [row, row], "retain": [row]},
        "settings": {"dialect": "altpo"},
        "reasons": {"forget_rouge_l": "why"},
        "intervals": {"forget_rouge_l": [0.1, 0.2]},
    }
    files: dict[str, Any] = {
        "evaluation.json": evaluation,
        "evaluation_before.json": evaluation,
        "retain.json": evaluation,
        "provenance.json": {"command": ["altpo-ds", "unlearn"], "rows": {"forget": 2}},
        "config.yaml": {"objective": {"beta": 0.1}, "evaluate": {"retain_reference": "retain.json"}, "tracking": {}},
        "metrics.jsonl": [{"step": step, "train/loss": 1.0, "eval/model_utility": 0.5} for step in (1, 2)],
    }
    run_dir.mkdir()
    chosen = rng.choice([*files])
    for name, value in files.items():
        damaged = damaged_value(value, rng) if name == chosen and rng.random() < 0.7 else value
        dump = {"yaml": yaml.safe_dump, "json": json.dumps, "jsonl": json_lines}[name.partition(".")[2]]
        content = dump(damaged).encode()
        (run_dir / name).write_bytes(damaged_bytes(content, rng) if name == chosen and damaged is value else content)


def test_run_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for case in range(300):
        run_dir, out = tmp_path / "run", tmp_path / "report.html"
        stored_run(run_dir, Random(case))
        line = refusal(case, lambda: read_run(run_dir))  # noqa: B023
        if case % 40 == 0:  # a page takes half a second
            line = run(case, monkeypatch, "report", str(run_dir), "--out", str(out))
            assert out.exists() == (line is None)
            out.unlink(missing_ok=True)
        if line is not None:
            refused += 1
            # the path of the retain model's evaluation was itself damaged
            assert any(place in line for place in (str(run_dir), *filter(str.strip, TEXTS))), f"case {case}: {line}"
        shutil.rmtree(run_dir)
    assert 80 < refused < 290


def test_prompt_templates(tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    templates = [path.read_bytes() for path in sorted((ROOT / "altpo_ds/alternates/prompts").glob("*.jinja"))]
    for case in range(100):
        rng = Random(case)
        file.write_bytes(damaged_bytes(rng.choice(templates), rng))
        line = refusal(case, lambda: load_prompt(str(file)))
        assert line is None or str(file) in line, f"case {case}: {line}"


def test_shards_and_summaries_of_alternates(tmp_path: Path) -> None:
    file, summary = tmp_path / "shards" / "shard.sqlite", tmp_path / "a.summary.json"
    settings = {"model": "m", "seed": 1}
    with contextlib.closing(Shard(file, settings)) as shard:
        shard.add([(0, 0, [Sample("text", 3, True)])], seconds=1.0)
        shard.finish([(Question(0, "q", "a"), {"row": {}, "tokens": 1})])
        shard.add([(1, 0, [Sample("text", 3, True)])], seconds=1.0)
        shard.complete()
    whole = file.read_bytes()

    def read() -> None:
        with contextlib.closing(Shard(file, settings)) as shard:
            shard.samples(1, 0, 5)
            shard.has_row(0)
            shard.complete()
        if (complete := CompleteShards.open([file])) is not None:
            with contextlib.closing(complete):
                list(complete.rows())
                complete.seconds()

    for case in range(120):
        rng = Random(case)
        data = whole
        for _ in range(20):  # the file is mostly empty
            data = damaged_bytes(data, rng) if rng.random() < 0.3 else data
        shutil.rmtree(file.parent)  # with any journal of the case before
        file.parent.mkdir()
        file.write_bytes(data)
        line = refusal(case, read)
        assert line is None or "shards" in line, f"case {case}: {line}"
        summary.write_bytes(damaged_bytes(b'{"file": "a", "sha256": "b", "settings": {}}', rng))
        assert read_summary(summary) is None


def test_model_directories(tiny: Tiny, tmp_path: Path) -> None:
    import torch

    from altpo_ds.engine.models import load_scorer

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    names = ["config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    for case in range(50):
        rng, model = Random(case), tmp_path / "model"
        shutil.copytree(tiny.model, model)
        file = model / rng.choice(names)
        if case % 2 and file.name.endswith("json"):
            file.write_text(json.dumps(damaged_value(json.loads(file.read_text()), rng)))
        else:
            file.write_bytes(damaged_bytes(file.read_bytes(), rng))

        def read() -> None:
            load_tokenizer(str(model))  # noqa: B023
            load_scorer(str(model), ModelConfig(path=str(model)), {}, torch.device("cpu"))  # noqa: B023

        try:
            line = refusal(case, read)
        finally:
            shutil.rmtree(model)
        assert line is None or str(model) in line, f"case {case}: {line}"
    torch.distributed.destroy_process_group()


def test_caches_of_log_probabilities(tmp_path: Path) -> None:
    file = tmp_path / "cache.safetensors"
    cache = ReferenceCache(file)
    cache.add({1: -1.0, 2: -2.0})
    cache.save()
    whole = file.read_bytes()
    for case in range(100):
        file.write_bytes(damaged_bytes(whole, Random(case)))
        line = refusal(case, lambda: ReferenceCache(file))
        assert line is None or str(file) in line, f"case {case}: {line}"


def test_manifests_of_checkpoints(tmp_path: Path) -> None:
    files = {"state.json": b"{}", "zero/a.pt": b"weights", "rng-0.pt": b"numbers"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    entries = {name: manifest.describe(tmp_path / name) for name in files}
    manifest.write(tmp_path, manifest.Manifest(step=3, files=entries))
    file = tmp_path / manifest.NAME
    whole, found = file.read_text(), 0
    assert manifest.damage(tmp_path) is None
    for case in range(200):
        rng = Random(case)
        if case % 2:
            file.write_bytes(damaged_bytes(whole.encode(), rng))
        else:
            file.write_text(json.dumps(damaged_value(json.loads(whole), rng)))
        with limited(case):
            what = manifest.damage(tmp_path)
        found += what is not None
        assert what is None or (str(tmp_path) in what and "\n" not in what), f"case {case}: {what}"
    assert found > 100
