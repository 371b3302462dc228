"""Checkpoints are whole or absent, damaged ones are passed over, and code hidden in one is never run."""

import io
import json
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from altpo_ds.config.errors import UserError
from altpo_ds.engine import checkpoints, manifest, trust
from altpo_ds.engine.checkpoints import Saver, complete, newest_usable
from altpo_ds.engine.distributed import World
from altpo_ds.engine.parts import Put
from altpo_ds.engine.rng import rng_state, seed_all, set_rng_state

ALONE = World(0, 1, 0, torch.device("cpu"))
STATE = {"seed": 1, "data": {"items_seen": 8}, "layout": {"ranks": 1}}


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(folder: Path, step: int, keep: int = 2, wait: bool = True) -> Saver:
    """A checkpoint with a shard in a folder of its own."""

    def write(aside: Path, put: Put) -> None:
        (aside / "zero").mkdir()
        put({"weights": torch.full((64,), float(step))}, aside / "zero" / "shard.pt")

    saver = Saver(folder, keep, ALONE)
    saver.save(step, write, STATE | {"step": step}, wait=wait)
    return saver


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 4
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lose(file: Path) -> None:
    file.unlink()


def test_a_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 3)
    drawn = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]
    seed_all(5)
    read: list[Any] = []
    state = checkpoints.load(tmp_path / "step-3", lambda path, layout: read.append((path, layout)), ALONE)
    assert state == STATE | {"step": 3}
    assert read == [(tmp_path / "step-3", {"ranks": 1})]
    assert [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()] == drawn
    assert trust.load(tmp_path / "step-3" / "zero" / "shard.pt")["weights"][0] == 3
    entries = json.loads((tmp_path / "step-3" / "manifest.json").read_text())["files"]
    assert sorted(entries) == ["rng-0.pt", "state.json", "zero/shard.pt"]


def test_on_another_number_of_ranks_the_generators_begin_anew(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "step-3" / "state.json").write_text(json.dumps(STATE | {"step": 3, "layout": {"ranks": 2}}))
    draws = []
    for _ in range(2):
        checkpoints.load(tmp_path / "step-3", lambda path, layout: None, ALONE)
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()))
    assert draws[0] == draws[1]


def test_rng_states_hold_no_code_and_come_back() -> None:
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    expected = torch.rand(1), np.random.normal(), random.random()
    set_rng_state(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert (torch.rand(1), np.random.normal(), random.random()) == expected


def test_older_ones_go_and_later_ones_are_of_a_future_that_was_left(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-2", "step-3"]
    save(tmp_path, 2, keep=1)  # as after `--resume` of an older one
    assert names(tmp_path) == ["step-2"]
    assert newest_usable(tmp_path, ALONE) == tmp_path / "step-2"


@pytest.mark.parametrize("harm", [flip_bit, truncate, lose])
@pytest.mark.parametrize("name", ["zero/shard.pt", "rng-0.pt", "state.json", "manifest.json"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Any, name: str
) -> None:
    for step in (4, 6):
        save(tmp_path, step)
    harm(tmp_path / "step-6" / name)
    assert newest_usable(tmp_path, ALONE) == tmp_path / "step-4"
    assert len(caplog.messages) == 1
    assert "step-6" in caplog.messages[0]
    save(tmp_path, 5, keep=1)  # the damaged one must not count as the one to keep
    assert names(tmp_path) == ["step-5"]
    harm(tmp_path / "step-5" / name)
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        newest_usable(tmp_path, ALONE)


def test_a_first_save_that_was_cut_off_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest_usable(tmp_path / "missing", ALONE) is None
    (tmp_path / ".step-2.partial").mkdir()
    (tmp_path / ".step-2.partial" / "shard.pt").write_bytes(b"half")
    assert newest_usable(tmp_path, ALONE) is None
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-2"]


class Killed(BaseException):
    """Stands for kill -9: nothing below catches it."""


def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends a save before each of its operations on folders and each sync, one after the other."""
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, step)
    calls = [
        (Path, "rename"),
        (Path, "replace"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
        (manifest, "sync"),
        (torch, "save"),
    ]
    left: set[int] = set()
    for moment in range(1, 100):
        folder = tmp_path / f"at-{moment}"
        shutil.copytree(before, folder)
        (folder / ".step-9.partial").mkdir()
        countdown = iter(range(moment - 1, -1, -1))

        def killing(original: Any, countdown: Iterator[int] = countdown) -> Any:
            def call(*args: Any, **more: Any) -> Any:
                if next(countdown) == 0:
                    raise Killed
                return original(*args, **more)

            return call

        finished = False
        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, killing(getattr(owner, name)))
            try:
                save(folder, 3)
                finished = True
            except Killed:
                pass
            except StopIteration:
                raise AssertionError("killed twice") from None
        usable = newest_usable(folder, ALONE)
        assert usable is not None
        left.add(int(usable.name.removeprefix("step-")))
        save(folder, 3)
        assert names(folder) == ["step-2", "step-3"]
        if finished:
            break
    assert finished
    assert left == {2, 3}


def test_what_cannot_be_written_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def write(aside: Path, put: Put) -> None:
        put({}, aside / "no such folder" / "shard.pt")

    refused = r"cannot write checkpoint '.*step-2'.*the previous one is intact"
    saver = Saver(tmp_path, 2, ALONE)
    with pytest.raises(UserError, match=refused):
        saver.save(2, write, STATE)
    saver.save(2, write, STATE, wait=False)
    with pytest.raises(UserError, match=refused):
        saver.finish()
    assert names(tmp_path) == ["step-1"]


def test_in_the_background_the_state_of_the_moment_is_saved(tmp_path: Path) -> None:
    weights = torch.arange(1e6)
    saver = Saver(tmp_path, 2, ALONE)
    state = {"weights": [weights], "shape": weights.shape}
    saver.save(1, lambda aside, put: put(state, aside / "shard.pt"), STATE | {"step": 1}, wait=False)
    assert complete(tmp_path) == []
    weights.zero_()
    while not complete(tmp_path):
        saver.advance()
    assert newest_usable(tmp_path, ALONE) == tmp_path / "step-1"
    saved = trust.load(tmp_path / "step-1" / "shard.pt")
    assert saved["weights"][0][-1] == 1e6 - 1
    assert saved["shape"].numel() == 1e6


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plain", [False, True], ids=["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, plain: bool) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "checkpoints"

    def write(aside: Path, put: Put) -> None:
        if plain:
            (aside / "shard.pt").write_bytes(pickle.dumps(Malicious(mark)))
        else:
            put({"weights": Malicious(mark)}, aside / "shard.pt")

    Saver(folder, 2, ALONE).save(1, write, STATE | {"step": 1})
    checkpoint = newest_usable(folder, ALONE)  # its manifest is right
    assert checkpoint is not None
    with pytest.raises(UserError, match=r"shard\.pt' (holds code|is not a file that torch\.save wrote)"):
        checkpoints.load(checkpoint, lambda path, layout: None, ALONE)
    with pytest.raises(pickle.UnpicklingError), trust.restricted():
        torch.load(checkpoint / "shard.pt", weights_only=False)  # as DeepSpeed does
    assert not mark.exists()
