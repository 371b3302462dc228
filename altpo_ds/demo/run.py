"""The command `demo`: the whole story on an invented world, each stage the command that a user would run."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder, write_whole
from altpo_ds.demo.corpus import CorpusFiles, write_corpus
from altpo_ds.demo.model import build_model, build_tokenizer, save

RANKS = 2
ENOUGH = 5  # alternates of a question; with fewer of the model's own, templates make up the rest

# Found by a search over seeds: see docs/demo.md.
FINETUNE = {
    "train": {
        "epochs": 8,
        "global_batch_size": 32,
        "micro_batch_size": 32,
        "lr": 4e-3,
        "betas": [0.9, 0.95],
        "scheduler": "cosine",
        "warmup": 0.05,
        "log_every": 50,
    },
    "engine": {"deepspeed": "zero0"},
}
ALTERNATES = {"count": 10, "prompt": "chat", "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 40, "max_leak": 1.0}
UNLEARN = {
    "objective": {"beta": 0.5, "retain_weight": 2.0},
    "train": {
        "epochs": 10,
        "global_batch_size": 10,
        "micro_batch_size": 5,
        "lr": 1e-3,
        "warmup": 0.1,
        "evaluate_every": 25,
        "log_every": 5,
    },
}


@dataclass(frozen=True)
class Demo:
    """Folders and files of one demo under `out`."""

    out: Path
    seed: int
    console: Console

    def run(self) -> Path:
        """Corpus, models, alternates, unlearning, evaluation, report; returns the unlearning's run directory."""
        started = time.monotonic()
        self.say("a corpus of fictitious authors, a tokenizer and an untrained Llama")
        corpus = write_corpus(self.out / "data", self.seed)
        texts = [row[key] for row in read_jsonl(corpus.vocabulary) for key in ("question", "answer")]
        tokenizer = build_tokenizer(texts)
        save(build_model(tokenizer, self.seed), tokenizer, self.out / "init")
        self.say("training: one model on all authors, one that never sees five of them")
        self.train_models(corpus)
        self.say("evaluating the retain model")
        run_file = self.write_run("unlearn", self.unlearning(corpus))
        retain = self.out / "retain" / "evaluation.json"
        self.command("evaluate", run_file, ["--model", str(self.out / "retain" / "model"), "--out", str(retain)])
        self.say("the model writes alternates for what it is to forget")
        self.command("alternates", run_file, [])
        fallback = self.fill_short(corpus)
        self.say(f"unlearning on {RANKS} ranks under ZeRO-3, evaluating on the way")
        self.command("unlearn", run_file, [f"--evaluate.retain_reference={retain}"])
        self.report(retain, fallback, time.monotonic() - started)
        return self.out / "unlearn"

    def say(self, what: str) -> None:
        self.console.print(f"[bold]•[/bold] {what}")

    def train_models(self, corpus: CorpusFiles) -> None:
        """Both models at the same time, a process and a core each; then each as a Hugging Face directory."""
        from altpo_ds.engine.export import export, newest

        rows = {"full": corpus.full_train, "retain": corpus.retain_train}
        running = {
            name: self.start("finetune", self.write_run(name, self.finetuning(name, rows[name])), []) for name in rows
        }
        for name, process in running.items():
            finish(process, f"training the {name} model")
            export(newest(self.out / name), self.out / name / "model")

    def finetuning(self, name: str, rows: Path) -> dict[str, Any]:
        return self.base(name, self.out / "init") | {"data": {"train": {"path": str(rows)}}} | FINETUNE

    def unlearning(self, corpus: CorpusFiles) -> dict[str, Any]:
        """The run of alternates, unlearning and evaluation."""
        splits = ("forget", "retain", "real_authors", "world_facts")
        paths = {split: {"path": str(getattr(corpus, f"{split}_perturbed"))} for split in splits}
        data = {
            "forget": {"path": str(corpus.forget)},
            "alternates": {"path": str(self.out / "unlearn" / "alternates.jsonl")},
            "retain": {"path": str(corpus.retain)},
        }
        sections = {"data": data, "alternates": ALTERNATES, "evaluate": paths}
        return self.base("unlearn", self.out / "full" / "model") | sections | UNLEARN

    def base(self, name: str, model: Path) -> dict[str, Any]:
        tracking = {"wandb": "WANDB_API_KEY" in os.environ, "group": "demo", "examples": 10}
        sections = {"model": {"path": str(model)}, "tracking": tracking}
        return {"run_dir": str(self.out / name), "seed": self.seed} | sections

    def write_run(self, name: str, run: dict[str, Any]) -> Path:
        file = self.out / f"{name}.yaml"
        write_whole(file, yaml.safe_dump(run, sort_keys=False))
        return file

    def start(self, verb: str, run_file: Path, options: list[str], ranks: int = 1) -> subprocess.Popen[bytes]:
        """`altpo-ds VERB` in processes of their own: one thread each, so that ranks do not fight for the cores."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        entry = [sys.executable, *torchrun, "-m", "altpo_ds", verb, str(run_file), *options]
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // RANKS))
        return subprocess.Popen(entry, env=os.environ | {"OMP_NUM_THREADS": threads})

    def command(self, verb: str, run_file: Path, options: list[str]) -> None:
        finish(self.start(verb, run_file, options, RANKS), verb)

    def fill_short(self, corpus: CorpusFiles) -> int:
        """Fills questions that the model left short of alternates from the corpus's templates; how many alternates."""
        templates = {row["question"]: row["templates"] for row in read_jsonl(corpus.forget)}
        file = self.out / "unlearn" / "alternates.jsonl"
        own = {row["question"]: row for row in read_jsonl(file)}
        filled, rows = 0, []
        for row in read_jsonl(corpus.forget):
            alternates = own.get(row["question"], {}).get("alternates", [])
            more = [text for text in templates[row["question"]] if text not in alternates]
            more = more[: max(0, ENOUGH - len(alternates))]
            filled += len(more)
            kept = own.get(row["question"], {"question": row["question"], "answer": row["answer"]})
            rows.append(kept | {"alternates": [*alternates, *more]})
        if filled:
            write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return filled

    def report(self, retain: Path, fallback: int, seconds: float) -> None:
        """report.html beside the runs, and one screen on the terminal."""
        from altpo_ds.evaluate.report import write_report
        from altpo_ds.evaluate.runs import read_evaluation, read_run
        from altpo_ds.evaluate.summary import summary_table

        run_dir = self.out / "unlearn"
        write_report(self.out / "report.html", [read_run(run_dir)])
        files = (run_dir / "evaluation_before.json", run_dir / "evaluation.json", retain)
        before, after, reference = (read_evaluation(file) for file in files)
        self.console.print(summary_table(before.metrics, after.metrics, reference.metrics))
        for was, now in list(zip(before.rows("forget"), after.rows("forget"), strict=True))[1:4]:
            self.console.print(
                f"[bold]Q[/bold] {was['question']}\n  before: {was['generation']}\n  after:  {now['generation']}"
            )
        total = sum(len(row["alternates"]) for row in read_jsonl(run_dir / "alternates.jsonl"))
        written = f"{total - fallback} alternates are the model's own, {fallback} from templates"
        self.console.print(f"{written}; {seconds:.0f} s in all\n{self.out / 'report.html'}")


def finish(process: subprocess.Popen[bytes], what: str) -> None:
    if process.wait() != 0:
        raise UserError(f"the demo stopped: {what} ended with status {process.returncode}; see the messages above")


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def demo(out: Path, seed: int = 0) -> Path:
    """Runs the demo in `out`, a new directory; returns the run directory of the unlearning."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: is not empty; give a new directory")
    make_folder(out)
    return Demo(out, seed, Console()).run()
