"""Whatever is wrong with a run: status 2 and one line that names it, never a traceback."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from altpo_ds import cli
from tests.conftest import Command, Tiny, write_jsonl

pytestmark = pytest.mark.slow

Fail = Callable[..., str]


def line_of(stderr: str) -> str:
    """What the only line on standard error says."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("altpo-ds: error: ")
    return lines[0].removeprefix("altpo-ds: error: ")


def line_of_ranks(done: subprocess.CompletedProcess[str]) -> str:
    """The only error line under torchrun, which adds its own report with the ranks' status."""
    assert done.returncode != 0
    assert "exitcode  : 2 " in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("altpo-ds: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Runs a verb in this process, which must end with status 2, and returns its error line."""
    run_file = tmp_path / "run.yaml"
    run_file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    monkeypatch.setenv("ALTPO_CACHE", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def run(verb: str, options: list[str], file: bool = True) -> str:
        arguments = [str(run_file), *options] if file else options
        monkeypatch.setattr("sys.argv", ["altpo-ds", verb, *arguments])
        before = set(os.environ)
        try:
            status = cli.main()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for name in set(os.environ) - before:
                os.environ.pop(name)
        assert status == 2
        return line_of(capsys.readouterr().err)

    return run


def test_misspelt_key(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    assert "did you mean objective.beta?" in fails("unlearn", [*tiny.options(tmp_path / "run"), "--objective.bta=1"])


def test_missing_data_file(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    for key in ("forget", "retain", "alternates"):
        missing = str(tmp_path / f"no-{key}.jsonl")
        line = fails("unlearn", tiny.options(tmp_path / "run", **{f"data__{key}__path": missing}))
        assert f"data file '{missing}' does not exist" in line
    assert not (tmp_path / "run").exists()


def test_broken_row(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in tiny.forget.read_text().splitlines()]
    rows[4]["answer"] = 7
    file = write_jsonl(tmp_path / "forget.jsonl", rows)
    line = fails("unlearn", tiny.options(tmp_path / "run", data__forget__path=file))
    assert line.startswith(f"{file} row 5, column 'answer': is int")
    assert "data.on_error=skip" in line


def test_alternates_for_other_questions(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    rows = [{"question": f"Another question {i}?", "alternates": ["Yes."]} for i in range(3)]
    file = write_jsonl(tmp_path / "alternates.jsonl", rows)
    options = tiny.options(tmp_path / "run", data__alternates__path=file)
    assert f"{tiny.forget} row 1, column 'question': has no alternates" in (line := fails("unlearn", options))
    assert "(and 11 more)" in line
    line = fails("unlearn", [*options, "--data.on_error=skip"])
    assert "data.forget: no usable row" in line


def test_model_path_that_is_no_model(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        line = fails("unlearn", tiny.options(tmp_path / "run", model__path=path))
        assert f"'{path}' is no model directory" in line


def test_unknown_key_in_a_deepspeed_file(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "overlap_com": True}}))
    line = fails("unlearn", tiny.options(tmp_path / "run", engine__deepspeed=file))
    assert "overlap_com" in line
    assert "overlap_comm" in line


def test_resume_from_a_path_without_a_checkpoint(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    line = fails("unlearn", [*tiny.options(tmp_path / "run"), "--resume", str(tmp_path / "step-9")])
    assert line.startswith(f"--resume {tmp_path / 'step-9'}: checkpoint file ")
    assert "manifest.json' is missing" in line


def test_run_dir_that_cannot_be_written(fails: Fail, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        line = fails("unlearn", tiny.options(run_dir))
        assert line.startswith(f"cannot write '{run_dir}")
        assert "choose another place" in line


def test_export_without_checkpoints(fails: Fail, tmp_path: Path) -> None:
    line = fails("export", [str(tmp_path), "--to", str(tmp_path / "out")], file=False)
    assert f"'{tmp_path}' holds no complete checkpoint" in line
    assert not (tmp_path / "out").exists()


def test_every_rank_ends_with_one_line(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    done = command("unlearn", tiny.options(tmp_path / "run", train__global_batch_size=3), ranks=2)
    assert "set global_batch_size to 2 or 4" in line_of_ranks(done)


def test_a_broken_row_of_one_rank_stops_both(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "retain.jsonl"
    file.write_text(tiny.retain.read_text() + "not JSON\n")  # row 31, read by rank 0 alone
    done = command("unlearn", tiny.options(tmp_path / "run", data__retain__path=file), ranks=2)
    assert f"{file} row 31, column '-': is not JSON" in line_of_ranks(done)


def test_one_process_prints_nothing_else(command: Command, tiny: Tiny, tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    done = command("unlearn", tiny.options(tmp_path / "run", data__forget__path=missing))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"altpo-ds: error: data file '{missing}' does not exist; check the path\n"
