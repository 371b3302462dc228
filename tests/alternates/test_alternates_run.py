"""The command's function over a backend without a model: files, resumption, shards."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from altpo_ds.alternates import run as module
from altpo_ds.alternates.run import generate_alternates, runs_by_seed, write_share
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.rows import parse_alternates, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.engine.distributed import World
from tests.alternates.conftest import StubBackend

Run = Callable[..., RunConfig]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[StubBackend], StubBackend]:
    def use(backend: StubBackend) -> StubBackend:
        @contextlib.contextmanager
        def opened(*_: Any) -> Iterator[StubBackend]:
            yield backend

        monkeypatch.setattr(module, "open_backend", opened)
        return backend

    return use


def lines(file: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_rows_come_in_order_with_provenance(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    config = run(rows=50, attempts=2)
    summary = generate_alternates(config)
    rows = lines(summary.file)
    numbers = [int(row["question"].split()[3]) for row in rows]
    assert numbers == sorted(numbers)
    assert summary.questions == 50
    assert summary.alternates == sum(len(row["alternates"]) for row in rows)
    for row in rows:
        meta = row["meta"]
        assert row["answer"].endswith("was born in Zell.")
        assert (meta["seed"], meta["prompt"], meta["temperature"], len(meta["model"])) == (0, "chat", 1.0, 64)
        assert len(meta["samples"]) == len(meta["log_probs"]) == len(row["alternates"]) <= 3
        assert len(meta["samples"]) + len(meta["rejected"]) == meta["drawn"]
    short = list(summary.short_questions())
    assert summary.short == len(short) == 50 - sum(len(row["alternates"]) == 3 for row in rows) > 0
    assert all(len(row["alternates"]) < 3 for row in short)
    counted: dict[str, int] = {}
    for row in [*rows, *(row for row in short if not row["alternates"])]:
        for item in row["meta"]["rejected"]:
            counted[item["reason"]] = counted.get(item["reason"], 0) + 1
    assert counted == summary.rejected
    assert summary.quality["log_prob"] == pytest.approx(
        sum(-len(text) / 10 for row in rows for text in row["alternates"]) / summary.alternates, abs=1e-4
    )
    assert json.loads(Path(config.run_dir, "alternates.summary.json").read_text())["short"] == summary.short
    assert sorted(path.name for path in Path(config.run_dir).iterdir()) == [
        "alternates.jsonl",
        "alternates.short.jsonl",
        "alternates.summary.json",
    ]


def test_the_file_is_a_source_of_alternates(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    config = run(rows=30, attempts=1, count=1)
    summary = generate_alternates(config)
    source = RunConfig.model_validate(
        {"run_dir": "x", "model": {"path": "x"}, "data": {"alternates": {"path": summary.file}}}
    ).data.alternates
    assert source is not None
    rows = [row for _, row in parsed(source, parse_alternates)]
    assert not any(isinstance(row, Problem) for row in rows)
    assert len(rows) == 30 - summary.short  # questions without any are only in the list of short ones
    assert summary.short > 0


def test_the_same_seed_gives_the_same_file_and_another_seed_another(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = run(out=str(Path(run().run_dir, f"{name}.jsonl"))).model_copy(update={"seed": seed})
        texts.append(Path(generate_alternates(config).file).read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("seed", range(6))
def test_a_start_after_a_crash_gives_the_file_of_an_unbroken_run(world: World, run: Run, use: Any, seed: int) -> None:
    whole = use(StubBackend())
    expected = Path(generate_alternates(run(rows=60)).file).read_text()
    config, starts, asked = run(rows=60, out=str(Path(run().run_dir, "broken.jsonl"))), 0, []
    draw = Random(seed)
    while True:
        backend = use(StubBackend(breaks_after=draw.randrange(12)))
        try:
            summary = generate_alternates(config)
            break
        except KeyboardInterrupt:
            starts += 1
        finally:
            asked += backend.asked
    assert starts > 2
    assert Path(summary.file).read_text() == expected
    assert sorted(asked) == sorted(whole.asked)  # nothing was asked twice


def test_a_finished_file_is_left_alone_and_a_changed_one_written_again(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    config = run()
    summary = generate_alternates(config)
    idle = use(StubBackend())
    assert generate_alternates(config) == summary
    assert idle.asked == []
    whole = Path(summary.file).read_text()
    Path(summary.file).write_text(whole[:-1])
    generate_alternates(config)
    assert Path(summary.file).read_text() == whole


def test_settings_that_change_the_samples_do_not_mix(world: World, run: Run, use: Any) -> None:
    use(StubBackend(breaks_after=3))
    with pytest.raises(KeyboardInterrupt):
        generate_alternates(run())
    use(StubBackend())
    with pytest.raises(UserError, match="begun with another temperature; restore that, or remove the folder"):
        generate_alternates(run(temperature=0.5))
    generate_alternates(run())


def test_shards_of_several_starts_are_merged_by_the_last(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    expected = Path(generate_alternates(run(rows=23)).file).read_text()
    out = str(Path(run().run_dir, "shared.jsonl"))
    for shard in (2, 0):
        assert write_share(run(rows=23, out=out, shards=3, shard=shard)) is None
    assert not Path(out).exists()
    summary = write_share(run(rows=23, out=out, shards=3, shard=1))
    assert summary is not None
    assert summary.questions == 23
    assert Path(out).read_text() == expected
    again = use(StubBackend())
    assert write_share(run(rows=23, out=out, shards=3, shard=0)) == summary
    assert again.asked == []


def test_more_shards_than_questions(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    out = str(Path(run().run_dir, "few.jsonl"))
    results = [write_share(run(rows=2, out=out, shards=4, shard=shard)) for shard in range(4)]
    assert results[:3] == [None] * 3
    assert results[3] is not None
    assert results[3].questions == 2


def test_a_file_for_each_seed(run: Run) -> None:
    config = run(seeds=[3, 5], out="x/y.jsonl")
    runs = runs_by_seed(config)
    assert [(each.seed, each.alternates.out) for each in runs] == [(3, "x/y.seed3.jsonl"), (5, "x/y.seed5.jsonl")]
    assert runs_by_seed(run()) == [run()]


@pytest.mark.parametrize(
    ("alternates", "expected"),
    [
        ({"out": "x.json"}, "must end in .jsonl"),
        ({"prompt": "chatt"}, "known: chat"),
        ({"shards": 2}, "only the command shares a file out"),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(
    world: World, run: Run, use: Any, alternates: dict[str, Any], expected: str
) -> None:
    backend = use(StubBackend())
    with pytest.raises(UserError, match=expected):
        generate_alternates(run(**alternates))
    assert backend.asked == []


def test_broken_rows_stop_or_are_skipped(world: World, run: Run, use: Any) -> None:
    use(StubBackend())
    config = run(rows=5)
    assert config.data.forget is not None
    with Path(str(config.data.forget.path)).open("a") as file:
        file.write('{"question": "no answer?"}\n{"question": "Last?", "answer": "Yes, born in Zell."}\n')
    with pytest.raises(UserError, match=r"row 6, column 'answer': is missing"):
        generate_alternates(config)
    data = config.data.model_copy(update={"on_error": "skip"})
    assert generate_alternates(config.model_copy(update={"data": data})).questions == 6
