"""Nobody let in, nothing let out: code of models, paths in names, secrets, markup, permissions, pages for outsiders."""

import contextlib
import io
import json
import shutil
import stat
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from altpo_ds import cli
from altpo_ds.config import hub
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import ModelConfig
from altpo_ds.config.section import Source
from altpo_ds.data.sources import read
from altpo_ds.engine import manifest
from altpo_ds.engine.models import load_scorer, load_tokenizer
from tests.conftest import Command, Tiny, write_jsonl

SCRIPT = "<script>alert('forget')</script><img src=x onerror=alert(1)>"
SECRETS = {
    "WANDB_API_KEY": "5ec2e7" + "a" * 34,
    "HF_TOKEN": "hf_SECRETSECRETSECRET",
    "OPENAI_API_KEY": "sk-SECRET-of-the-server",
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Status and standard error of a command line in this process."""
    monkeypatch.setattr("sys.argv", ["altpo-ds", *arguments])
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main()
    return status, err.getvalue()


class Page(HTMLParser):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run on rows with markup, evaluated, with secrets all around it; and what it printed."""
    folder = tmp_path_factory.mktemp("secure")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("WANDB_MODE", "offline")
        rows = [json.loads(line) for line in tiny.perturbed.read_text().splitlines()]
        rows[0]["answer"] += f" {SCRIPT}"
        evaluation = write_jsonl(folder / "evaluation.jsonl", rows)
        forget = write_jsonl(folder / "forget.jsonl", [{k: row[k] for k in ("question", "answer")} for row in rows[:4]])
        run_dir = folder / "<b>run" / "of alice"
        options = tiny.options(
            run_dir,
            data__forget__path=forget,
            data__max_tokens=400,
            evaluate__forget__path=evaluation,
            evaluate__max_rows=3,
            evaluate__max_length=40,
            train__max_steps=1,
            train__evaluate_every=1,
            tracking__wandb="true",
            tracking__name="<b>alice</b>",
        )
        done = Command(folder).many([("unlearn", options)])
        assert done.returncode == 0, done.stderr
        yield run_dir, done.stdout + done.stderr


@pytest.mark.slow
def test_no_secret_is_written_or_printed(finished: tuple[Path, str]) -> None:
    run_dir, printed = finished
    written = [(path, path.read_bytes()) for path in run_dir.rglob("*") if path.is_file()]
    assert {"config.yaml", "provenance.json", "metrics.jsonl", "evaluation.json"} <= {p.name for p, _ in written}
    assert any(path.suffix == ".wandb" for path, _ in written)
    for value in SECRETS.values():
        assert value not in printed
        for path, content in written:
            assert value.encode() not in content, path


@pytest.mark.slow
def test_what_a_run_writes_is_the_owners_alone(finished: tuple[Path, str]) -> None:
    run_dir, _ = finished
    for path in [run_dir, run_dir.parent, *run_dir.rglob("*")]:
        assert path.is_symlink() or not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.slow
def test_the_page_shows_markup_as_text(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, _ = finished
    assert run(monkeypatch, "report", str(run_dir), "--out", str(tmp_path / "report.html"))[0] == 0
    page = Page(tmp_path / "report.html")
    assert SCRIPT in page.text
    assert "<b>alice</b>" in page.text
    assert not {"script", "b", "iframe", "object", "link", "form"} & page.tags
    assert not {name for name in page.attributes if name.startswith("on")}


@pytest.mark.slow
def test_a_page_for_outsiders_holds_no_text_path_or_name(
    finished: tuple[Path, str], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, _ = finished
    folder, out = tmp_path / "bob", tmp_path / "report.html"
    shutil.copytree(run_dir, folder)
    assert run(monkeypatch, "report", str(run_dir), str(folder), "--redact", "--out", str(out))[0] == 0
    page, text = Page(out), out.read_text(encoding="utf-8")
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    rows = [row for split in evaluation["per_example"].values() for row in split]
    texts = {row[key] for row in rows for key in ("question", "answer", "generation") if len(row.get(key, "")) > 3}
    assert len(texts) > 5
    for secret in (*texts, "alert(", "alice", "bob", str(run_dir.parents[1]), str(tiny.model), "forget.jsonl"):
        assert secret not in text, secret
        assert secret not in page.text, secret
    assert "run 1" in page.text
    assert "run 2" in page.text
    assert f"{evaluation['metrics']['forget_probability']:.3f}" in page.text
    data = json.loads((run_dir / "provenance.json").read_text())["data"]
    assert data["forget"][0]["sha256"] in page.text  # whoever has the data can tell that it was this


@pytest.mark.parametrize(
    ("option", "words", "secret"),
    [
        ("--alternates.server.url=http://me:hunter22@host/v1", "must hold neither user nor password", "hunter22"),
        ('--alternates.server.body={"api_key": "hunter22"}', "api_key: must hold no secret", "hunter22"),
        ('--alternates.server.body={"a": {"Authorization": "hunter22"}}', "must hold no secret", "hunter22"),
        ("--alternates.count=https://me:hunter22@host", "alternates.count", "hunter22"),
        (f"--seed={SECRETS['HF_TOKEN']}", "seed", SECRETS["HF_TOKEN"]),
    ],
)
def test_secrets_in_a_configuration_are_neither_taken_nor_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, words: str, secret: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: a\nmodel: {path: m}\n")
    status, err = run(monkeypatch, "config", str(file), "--cpu", option)
    assert status == 2
    assert words in err
    assert secret not in err


def with_own_code(tiny: Tiny, folder: Path) -> Path:
    """A model directory whose tokenizer and model are Python code that leaves a mark where it runs."""
    model = folder / "model"
    shutil.copytree(tiny.model, model)
    config = json.loads((model / "config.json").read_text())
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of", "auto_map": auto}))
    (model / "code.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'mark')!r}).write_text('ran')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'unheard_of'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    return model


def test_code_that_comes_with_a_model_runs_only_where_the_run_names_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = str(with_own_code(tiny, tmp_path))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for trusted in ([], [str(tmp_path)], [f"{model}/"]):
            settings = ModelConfig(path=model, trust_remote_code=trusted)
            with pytest.raises(UserError, match="is not run unasked; read that code, then name the path") as caught:
                load_scorer(model, settings, {}, torch.device("cpu"))
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "mark").exists()
        load_scorer(model, ModelConfig(path=model, trust_remote_code=[model]), {}, torch.device("cpu"))
        assert (tmp_path / "mark").read_text() == "ran"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "a/../../b", "a/b/c"])
def test_names_that_lead_elsewhere_are_no_hub_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"does not exist|unknown format|is a folder"):
        list(read(Source(path=name)))
    with pytest.raises(UserError, match="is no model directory"):
        load_tokenizer(name)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/tmp/elsewhere.safetensors"])
def test_an_index_of_weights_names_no_file_elsewhere(tiny: Tiny, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny.model, model := tmp_path / "model")
    (model / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": name}}))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match=f"names '{name}', which is no file of its folder"):
            load_scorer(str(model), ModelConfig(path=str(model)), {}, torch.device("cpu"))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "zero/../../secret", "a\0b"])
def test_a_manifest_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    document = {"step": 1, "files": {name: {"size": 1, "sha256": "0"}}}
    (tmp_path / manifest.NAME).write_text(json.dumps(document))
    assert "manifest.json' is damaged" in (manifest.damage(tmp_path) or "")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    hub.hub_reachable.cache_clear()
    begin = time.monotonic()
    try:
        with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached; give a file"):
            list(read(Source(path="someone/dataset")))
        with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached, and its cache does not hold it"):
            load_tokenizer("someone/model")
    finally:
        hub.hub_reachable.cache_clear()
    assert time.monotonic() - begin < hub.PATIENCE + 5
