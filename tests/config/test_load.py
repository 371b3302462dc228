"""Runs from YAML, environment and dotted options; and the one line for whatever is wrong with them."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altpo_ds.config.errors import UserError
from altpo_ds.config.load import dump_config, load_config
from altpo_ds.config.schema import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
)
from altpo_ds.config.section import AlternatesSource, PerturbedSource, RetainSource, Source

LEAST = "run_dir: runs/a\nmodel: {path: m}\n"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(LEAST)
    return path


def failure(path: Path, *options: str) -> str:
    """The one line for a run that does not load."""
    with pytest.raises(UserError) as caught:
        load_config(path, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def file_failure(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = failure(path)
    assert message.startswith(str(path))
    return message


def test_the_least_run_has_the_defaults_of_the_schema(run_file: Path) -> None:
    config = load_config(run_file)
    assert config == RunConfig(run_dir="runs/a", model=ModelConfig(path="m"))
    assert config.objective.beta == 0.1
    assert config.train.lr == 5e-5


def test_options_go_over_the_environment_and_that_over_the_file(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file.write_text(LEAST + "objective: {beta: 0.3, scale: 7}\nseed: 3\n")
    assert load_config(run_file).objective.beta == 0.3
    monkeypatch.setenv("ALTPO_OBJECTIVE__BETA", "0.2")
    monkeypatch.setenv("ALTPO_SEED", "2")
    config = load_config(run_file)
    assert (config.objective.beta, config.seed) == (0.2, 2)
    config = load_config(run_file, ["--objective.beta=0.05"])
    assert (config.objective.beta, config.objective.scale, config.seed) == (0.05, 7, 2)


def test_both_spellings_of_an_option_are_the_same(run_file: Path) -> None:
    together = ["--objective.beta=0.05", "--train.betas=[0.8, 0.95]", "--run_dir=b"]
    apart = ["--objective.beta", "0.05", "--train.betas", "[0.8, 0.95]", "--run_dir", "b"]
    config = load_config(run_file, together)
    assert config == load_config(run_file, apart)
    assert (config.objective.beta, config.train.betas, config.run_dir) == (0.05, (0.8, 0.95), "b")


def test_of_an_option_given_twice_the_last_one_counts(run_file: Path) -> None:
    assert load_config(run_file, ["--seed=1", "--seed", "2"]).seed == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tracking.tags=[a,b]", ["a", "b"]),
        ('--tracking.tags=["a", "b"]', ["a", "b"]),
        ("--tracking.tags=[]", []),
        ("--tracking.name=5", "5"),
        ("--tracking.name=true", "true"),
        ("--tracking.name=a=b", "a=b"),
        ("--tracking.name=null", None),
        ("--tracking.wandb=false", False),
        ("--reference.path=null", None),
        ("--train.max_grad_norm=null", None),
        ("--train.lr=1e-5", 1e-5),
        ("--data.forget.path=a,b.json", "a,b.json"),
        ("--data.forget.path=[a.json, b.json]", ["a.json", "b.json"]),
        ("--data.forget.path=part-[0-9]*.json", "part-[0-9]*.json"),
        ("--data.forget.path=*.jsonl", "*.jsonl"),
        ("--data.forget.path={a,b}.jsonl", "{a,b}.jsonl"),
    ],
)
def test_option_values_are_read_as_the_schema_types_them(run_file: Path, option: str, value: object) -> None:
    config: object = load_config(run_file, [option])
    for key in option.partition("=")[0].removeprefix("--").split("."):
        config = getattr(config, key)
    assert config == value


def test_a_section_that_the_file_lacks_can_come_from_options_or_environment(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTPO_DATA__RETAIN__PATH", "keep.jsonl")
    data = load_config(run_file, ["--data.forget.path=x", "--data.forget.question", "q"]).data
    assert data.forget == Source(path="x", question="q")
    assert data.retain == RetainSource(path="keep.jsonl")


def test_a_whole_section_can_be_set_and_dropped(run_file: Path) -> None:
    run_file.write_text(LEAST + "data: {forget: {path: f}, retain: {path: r}}\n")
    data = load_config(run_file, ["--data.retain=null", "--data.train={path: [t], text: body}"]).data
    assert data.forget == Source(path="f")
    assert data.retain is None
    assert data.train == RetainSource(path=["t"], text="body")


def test_yaml_reads_1e_minus_5_as_a_string_and_the_schema_as_a_number(run_file: Path) -> None:
    run_file.write_text(LEAST + "train: {lr: 1e-5}\n")
    assert load_config(run_file).train.lr == 1e-5


def test_relative_paths_stay_relative_to_the_working_directory(run_file: Path) -> None:
    run_file.write_text(LEAST + "data: {forget: {path: ../rows.jsonl}}\n")
    assert load_config(run_file).data.forget == Source(path="../rows.jsonl")


def test_yaml_merge_keys_are_no_duplicates(run_file: Path) -> None:
    run_file.write_text(LEAST + "data: {forget: &rows {path: a, question: q}, train: {<<: *rows, path: b}}\n")
    assert load_config(run_file).data.train == RetainSource(path="b", question="q")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LEAST + "objective: {betta: 1}\n", "objective.betta: unknown key; did you mean objective.beta?"),
        (LEAST + "objectve: {beta: 1}\n", "objectve: unknown key; did you mean objective?"),
        (LEAST + "beta: 1\n", "beta: unknown key; did you mean objective.beta?"),
        (LEAST + "objective.beta: 1\n", "objective.beta: unknown key; write it as nested keys, without the dot"),
        (LEAST + "zzz: 1\n", "zzz: unknown key; known keys: run_dir, seed, model"),
        (LEAST + "reference: {offload: 1}\n", "reference.offload: unknown key; known keys of reference: path, mode"),
        (LEAST + "data: {forget: {pth: x}}\n", "data.forget.pth: unknown key; did you mean data.forget.path?"),
        (LEAST + "5: 1\n", "5: unknown key"),
        ("rundir: r\nmodel: {path: m}\n", "rundir: unknown key; did you mean run_dir?"),
        ("model: {path: m}\n", "run_dir: missing; directory of the run"),
        ("run_dir: r\n", "model: missing; a section with the keys path, dtype"),
        ("run_dir: r\nmodel: {}\n", "model.path: missing; Hugging Face model directory or hub name"),
        (LEAST + "objective: {beta: 0}\n", "objective.beta = 0: must be greater than 0"),
        (LEAST + "objective: {beta: true}\n", "objective.beta = true: must be a number, not true or false"),
        (LEAST + "seed: false\n", "seed = false: must be a number, not true or false"),
        (LEAST + "objective: {beta: much}\n", 'objective.beta = "much": must be a valid number'),
        (LEAST + "train: {lr: .nan}\n", "train.lr = NaN: must be a finite number"),
        (LEAST + "train: {global_batch_size: 1.5}\n", "train.global_batch_size = 1.5: must be a valid integer"),
        (LEAST + "train: {betas: [0.9]}\n", "train.betas = [0.9]: too few values"),
        (LEAST + "train: {betas: [0.9, 1]}\n", "train.betas = 1: must be less than 1"),
        (LEAST + "train: {betas: [true, 0.9]}\n", "train.betas = true: must be a number"),
        (LEAST + "train: {warmup: 1.5}\n", "train.warmup = 1.5: must be less than or equal to 1"),
        (LEAST + "objective: {name: dpo}\n", "objective.name = \"dpo\": must be 'altpo' or 'sft'"),
        (LEAST + "evaluate: {suite: [tofu, x]}\n", "evaluate.suite = \"x\": must be 'tofu'"),
        (LEAST + "objective: 5\n", "objective = 5: must be a section with the keys name, beta"),
        (LEAST + "objective:\n", "objective = null: must be a section with the keys name, beta"),
        (LEAST + "data: {forget: {path: 5}}\n", "data.forget.path = 5: must be a valid string or must be a valid list"),
        (LEAST + "tracking: {tags: a}\n", 'tracking.tags = "a": must be a valid list'),
        (LEAST + "tracking: {wandb: maybe}\n", 'tracking.wandb = "maybe": must be a valid boolean'),
        (LEAST + "alternates: {min_rouge: 0.96}\n", "min_rouge 0.96 must be below max_rouge 0.95"),
        (LEAST + "seed: 1\nseed: 2\n", "invalid YAML: line 4: key 'seed' is there twice"),
        (LEAST + "objective: {beta: 1, beta: 2}\n", "invalid YAML: line 3: key 'beta' is there twice"),
        (LEAST + "train: [\n", "invalid YAML: line 4:"),
        (LEAST + "[a]: 1\n", "invalid YAML: line 3: found unhashable key"),
        (LEAST + "tracking: {name: 2024-13-45}\n", "invalid YAML: month must be in 1..12"),
        (LEAST + "tracking: {name: !!python/name:os.system }\n", "invalid YAML: line 3:"),
        (LEAST + "a: \x00\n", "invalid YAML: unacceptable character"),
        ("[" * 5000, "invalid YAML: maximum recursion depth"),
        ("- a\n", "holds a list; a run file is a mapping"),
        ("text\n", "holds a str; a run file is a mapping"),
        ("", "holds nothing; a run file is a mapping"),
        (b"run_dir: \xff\n", "not UTF-8 text: byte 9 is 0xff"),
    ],
)
def test_a_wrong_file_is_named_with_key_value_and_remedy(run_file: Path, text: str | bytes, expected: str) -> None:
    assert expected in file_failure(run_file, text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--objective.betta=1"], "option --objective.betta: unknown key; did you mean objective.beta?"),
        (["--objectve.beta=1"], "option --objectve.beta: unknown key; did you mean objective.beta?"),
        (["--lr", "1"], "option --lr: unknown key; did you mean train.lr?"),
        (["--run-dir=x"], "option --run-dir: unknown key; did you mean run_dir?"),
        (["--seed.x=1"], "option --seed.x: unknown key; did you mean seed?"),
        (["--train.lr=-1"], 'option --train.lr: train.lr = "-1": must be greater than 0'),
        (["--train.lr", "-5e-5"], 'option --train.lr: train.lr = "-5e-5": must be greater than 0'),
        (["--train.micro_batch_size=true"], 'train.micro_batch_size = "true": must be a valid integer'),
        (["--seed="], 'option --seed: seed = "": must be a valid integer'),
        (["--tracking.tags=a"], 'option --tracking.tags: tracking.tags = "a": must be a valid list'),
        (["--objective=5"], 'option --objective: objective = "5": must be a section'),
        (["--model=null"], "option --model: model = null: must be a section"),
        (["--data.forget={pth: x}"], "option --data.forget: data.forget.pth: unknown key"),
        (["--data.forget.question=q"], "option --data.forget.question: data.forget.path: missing"),
        (["--data.forget=null", "--data.forget.path=x"], "contradicts --data.forget, which sets the whole section"),
        (["--seed"], "option --seed: has no value"),
        (["--seed", "--objective.beta=1"], "option --seed: has no value"),
        (["extra"], "argument 'extra': not expected"),
        (["-s", "1"], "argument '-s': not expected"),
    ],
)
def test_a_wrong_option_is_named(run_file: Path, options: list[str], expected: str) -> None:
    assert expected in failure(run_file, *options)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ALTPO_OBJECTIVE__BETTA", "1", "ALTPO_OBJECTIVE__BETTA: unknown key; did you mean objective.beta?"),
        ("ALTPO_OBJECTIVE_BETA", "1", "ALTPO_OBJECTIVE_BETA: unknown key; did you mean"),
        ("ALTPO_CASHE", "1", "ALTPO_CASHE: unknown key"),
        ("ALTPO_SEED", "x", 'ALTPO_SEED: seed = "x": must be a valid integer'),
        ("ALTPO_TRACKING__TAGS", "a", 'ALTPO_TRACKING__TAGS: tracking.tags = "a": must be a valid list'),
    ],
)
def test_a_wrong_environment_variable_is_named(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"environment variable {expected}" in failure(run_file)


def test_the_message_blames_the_source_that_won(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file.write_text(LEAST + "seed: -1\n")
    assert failure(run_file).startswith(f"{run_file}: seed = -1")
    monkeypatch.setenv("ALTPO_SEED", "-2")
    assert failure(run_file).startswith("environment variable ALTPO_SEED: ")
    assert failure(run_file, "--seed=-3").startswith("option --seed: ")
    assert load_config(run_file, ["--seed=3"]).seed == 3


def test_the_cache_variable_is_no_key_of_a_run(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTPO_CACHE", "/somewhere")
    assert load_config(run_file).run_dir == "runs/a"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert failure(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"
    assert failure(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_long_wrong_value_is_shortened(run_file: Path) -> None:
    assert len(failure(run_file, f"--seed={'9' * 5000}x")) < 200


def test_a_loaded_run_cannot_be_changed(run_file: Path) -> None:
    config = load_config(run_file)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
share = st.floats(min_value=0, max_value=1, exclude_max=True)
count = st.integers(min_value=1, max_value=2**63)
paths = text | st.lists(text)
runs = st.builds(
    RunConfig,
    run_dir=text.filter(lambda value: "$" not in value),  # names a variable
    seed=st.integers(min_value=0),
    model=st.builds(ModelConfig, path=text, dtype=st.sampled_from(["auto", "float32", "bfloat16", "float16"])),
    data=st.builds(
        DataConfig,
        forget=st.none() | st.builds(Source, path=paths, name=st.none() | text, question=text),
        alternates=st.none() | st.builds(AlternatesSource, path=paths, alternates=text),
        retain=st.none() | st.builds(RetainSource, path=paths, text=st.none() | text),
    ),
    objective=st.builds(ObjectiveConfig, beta=positive, scale=st.none() | positive, retain_weight=positive),
    train=st.builds(
        TrainConfig, epochs=positive, lr=positive, betas=st.tuples(share, share), max_steps=st.none() | count
    ),
    evaluate=st.builds(EvaluateConfig, forget=st.none() | st.builds(PerturbedSource, path=paths)),
    tracking=st.builds(TrackingConfig, wandb=st.booleans(), name=st.none() | text, tags=st.lists(text)),
)


@settings(deadline=None)  # the first one imports
@given(runs)
def test_a_dumped_run_loads_to_an_equal_one(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@given(text.filter(lambda value: value != "null" and not value.startswith("--")))
def test_text_arrives_from_an_option_as_it_was_typed(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "least.yaml"
    path.write_text(LEAST)
    assert load_config(path, [f"--tracking.name={value}"]).tracking.name == value
    assert load_config(path, ["--tracking.name", value]).tracking.name == value


def test_run_dir_takes_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text("run_dir: runs/$ALTPO_TEST_TRIAL\nmodel: {path: m}\n")
    with pytest.raises(UserError, match=r"run_dir = .*names the environment variable WANDB_RUN, which is not set"):
        load_config(run_file, ["--run_dir=runs/${WANDB_RUN}/x"])
    monkeypatch.setenv("TRIAL", "k3")
    assert load_config(run_file, ["--run_dir=runs/$TRIAL/${TRIAL}"]).run_dir == "runs/k3/k3"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + below] * 9)}]\n" for below, name in pairwise("abcdefghij")
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + below] * 9)}], {name}: 1}}\n" for below, name in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "holds more than 100000 values when its aliases are written out"),
        (f"{LEAST}tracking: {{tags: &a [*a]}}\n", "an alias stands for what it lies in"),
        (MERGED, "a: unknown key"),
    ],
    ids=["bomb", "circle", "merge bomb"],
)
def test_a_document_that_grows_without_end_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(file)


def test_a_section_may_be_merged_in(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: a\nmodel: {path: x}\ndata: {forget: &f {path: a, split: s}, train: {<<: *f, path: b}}\n")
    train = load_config(file).data.train
    assert train is not None
    assert (train.path, train.split) == ("b", "s")
