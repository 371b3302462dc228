"""The report page of small run directories: what it says, what it escapes, and what it does without."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.alternates.words import distinctive
from altpo_ds.alternates.words import words as words_of
from altpo_ds.config.errors import UserError
from altpo_ds.evaluate.comparison import pareto_front
from altpo_ds.evaluate.examples import mark
from altpo_ds.evaluate.intervals import mean_interval
from altpo_ds.evaluate.metrics import SPLITS, tofu_metrics, tofu_reasons
from altpo_ds.evaluate.report import write_report
from altpo_ds.evaluate.runs import distinct_names, read_run, read_runs

ROWS = 20
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and a check that every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open_tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag == "br" else ""
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag
        self.text += " " if tag in ("th", "td") else ""

    def handle_data(self, data: str) -> None:
        if "style" not in self.open_tags:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_evaluation(knows: float, reference: list[dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
    """`knows`: how much likelier the true answers of the forget rows are than the perturbed ones, in nats."""
    per_example = {
        split: [
            {
                "question": f"Where was {split} author {number} born?",
                "answer": f"The author was born in Oslo in 19{number:02}.",
                "generation": f"In <script>alert({number})</script> Oslo" if knows > 1 else "In Lima",
                "answer_nll": 0.5,
                "paraphrased_nll": 3.0,
                "perturbed_nll": [3.0 + (knows if split == "forget" else 2) + 0.01 * number],
                "rouge_l": 0.5,
            }
            for number in range(ROWS)
        ]
        for split in SPLITS
    }
    metrics = tofu_metrics(per_example, "altpo", reference)
    return {
        "metrics": metrics,
        "per_example": per_example,
        "settings": {"dialect": "altpo", "rows": dict.fromkeys(SPLITS, ROWS)} | settings,
        "reasons": tofu_reasons(metrics),
    }


def make_run(run_dir: Path) -> Path:
    run_dir.mkdir()
    retain = make_evaluation(0.0)
    rows = retain["per_example"]["forget"]
    (run_dir / "retain.json").write_text(json.dumps(retain))
    (run_dir / "evaluation_before.json").write_text(json.dumps(make_evaluation(2.0, rows)))
    (run_dir / "evaluation.json").write_text(json.dumps(make_evaluation(0.02, rows)))
    (run_dir / "config.yaml").write_text(
        "objective: {name: altpo, beta: 0.1}\nevaluate: {retain_reference: retain.json}\ntracking: {examples: 2}\n"
    )
    (run_dir / "provenance.json").write_text(
        json.dumps({"command": ["altpo-ds", "unlearn", "my run.yaml"], "data": [{"path": "f.jsonl", "rows": 20}]})
    )
    lines = [{"step": step, "train/loss": 1 / step, "train/log_ratio_forget": -step} for step in range(1, 6)]
    lines.append({"step": 5, "eval/forget_quality_log10": -3.0, "eval/model_utility": 0.5})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def render(tmp_path: Path, *run_dirs: Path) -> Page:
    write_report(tmp_path / "report.html", read_runs(run_dirs))
    assert [path.name for path in tmp_path.glob("*report*")] == ["report.html"]
    return Page(tmp_path / "report.html")


def test_page_says_what_was_forgotten_and_kept(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    metrics = json.loads((run_dir / "evaluation.json").read_text())["metrics"]
    words = render(tmp_path, run_dir).words
    # all 20 rows of before lie above those of the retain model; after is moved by two rows: D = 2 / 20
    assert "Forgotten, as far as 20 rows can tell forget quality 1.5e-11 → 1.000" in words
    assert "with n = 20 only a KS statistic of 0.45 or more would show" in words
    assert metrics["forget_quality_ks"] == pytest.approx(0.1)
    assert "n = 20 forget rows, dialect altpo" in words
    assert "Kept 100% model utility {0:.3f} → {0:.3f} [".format(metrics["model_utility"]) in words
    assert "Forget: probability ↓: 0.607 → 0.607 [0.607, 0.607]" in words
    assert "altpo-ds unlearn 'my run.yaml'" in words
    assert "data.1.rows 20" in words


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    page = render(tmp_path, make_run(tmp_path / "first"))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    for _, attributes in page.tags:
        assert not attributes.get("href")
        assert str(attributes.get("src") or "data:").startswith("data:")
    assert "<script>alert(0)</script>" in page.text
    images = page.named("img")
    assert len(images) == 4
    assert all(image["alt"] for image in images)


def test_marked_words_are_the_facts(tmp_path: Path) -> None:
    page = render(tmp_path, make_run(tmp_path / "first"))
    assert "Before · 1 of 2 marked words" in page.words
    assert "After · 0 of 2 marked words" in page.words
    assert page.words.count("Where was forget author") == 2
    assert page.words.count("Where was retain author") == 1


@pytest.mark.parametrize(
    ("absent", "note"),
    [
        ("evaluation_before.json", "only the end is shown"),
        ("evaluation.json", "not been evaluated yet"),
        ("retain.json", "The retain model's evaluation, retain.json, is not there"),
        ("provenance.json", "provenance.json is absent"),
        ("metrics.jsonl", "– steps"),
    ],
)
def test_page_without_an_optional_file(tmp_path: Path, absent: str, note: str) -> None:
    run_dir = make_run(tmp_path / "first")
    (run_dir / absent).unlink()
    assert note in render(tmp_path, run_dir).words


def test_page_of_a_bare_run(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("run_dir: bare\n")
    page = render(tmp_path, tmp_path / "bare")
    assert "not been evaluated yet" in page.words
    assert not page.named("img")


def test_unmeasured_metrics_are_explained(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    (run_dir / "evaluation.json").write_text(json.dumps(make_evaluation(0.02)))
    words = render(tmp_path, run_dir).words
    assert "Forgotten? forget quality – Not measured: needs the retain model's evaluation" in words


def test_path_over_the_steps_from_either_column(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    line = {"step": 1, "eval/model_utility": 0.5}
    images = []
    for extra in ({}, {"eval/forget_quality_log10": -3.0}, {"eval/forget_quality": 0.001}):
        (run_dir / "metrics.jsonl").write_text(json.dumps(line | extra))
        images.append(render(tmp_path, run_dir).named("img")[0]["src"])
    assert images[0] != images[1] == images[2]


def test_curves_of_the_evaluations_on_the_way(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    lines = [
        {"step": step, "eval/forget_quality": 10.0**-step, "eval/model_utility": 0.5, "eval/forget_rouge_l": 1 / step}
        for step in (9, 3, 1)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    descriptions = " ".join(str(image["alt"]) for image in render(tmp_path, run_dir).named("img"))
    assert "log10 p of each evaluation during training; step 1: -1.0; step 9: -9.0" in descriptions
    assert "Evaluations on the way over the optimizer steps" in descriptions


def test_metrics_of_any_suite_with_their_basis_and_reasons(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    evaluation["metrics"] |= {"mia_loss_auc": 0.625, "privleak": None, "forget_extraction_strength": 0.25}
    evaluation["reasons"]["privleak"] = "needs the retain model"
    evaluation["notes"] = {"mia_loss_auc": "few rows"}
    evaluation["intervals"] = {"mia_loss_auc": [0.5, 0.75]}
    evaluation["curves"] = {"relearning": [{"step": step, "probability": 0.1 * step} for step in (0, 5)]}
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))
    page = render(tmp_path, run_dir)
    assert any(str(image["alt"]).startswith("Relearning attack") for image in page.named("img"))
    words = page.words
    assert "Membership attacks MIA loss AUC few rows – 0.625 0.500 – 0.750 – altpo" in words
    assert "Privleak needs the retain model – – – altpo" in words
    assert "Forget extraction strength – 0.250 – n = 20, altpo" in words
    assert "KS statistic ↓ 1.000 0.100 – n = 20, altpo" in words


def test_not_forgotten_and_forgotten_before(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    before, after = run_dir / "evaluation_before.json", run_dir / "evaluation.json"
    low, high = before.read_text(), after.read_text()
    after.write_text(low)
    assert "Not forgotten forget quality 1.5e-11 → 1.5e-11" in render(tmp_path, run_dir).words
    before.write_text(high)
    after.write_text(high)
    assert "it was above before, so this run shows no forgetting" in render(tmp_path, run_dir).words


def test_figures_that_do_not_compare_are_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    (run_dir / "evaluation_before.json").write_text(json.dumps(make_evaluation(2.0, dialect="openunlearning")))
    retain = json.loads((run_dir / "retain.json").read_text())
    del retain["per_example"]["world_facts"][3:]
    (run_dir / "retain.json").write_text(json.dumps(retain))
    words = render(tmp_path, run_dir).words
    assert "before was evaluated in dialect openunlearning, the model after in altpo" in words
    assert "retain model has 3 world_facts rows, the model after 20" in words


def test_several_runs_are_compared_first(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    page = render(tmp_path, first, second)
    assert page.words.index("2 runs side by side") < page.words.index("Forgotten")
    assert len(page.named("section")) == 2
    assert len(page.named("img")) == 9
    (second / "evaluation.json").write_text(json.dumps(make_evaluation(0.0, dialect="openunlearning")))
    assert "their forget qualities are not comparable" in render(tmp_path, first, second).words


def test_same_runs_give_the_same_page(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    pages = set()
    for _ in range(2):
        render(tmp_path, run_dir)
        pages.add((tmp_path / "report.html").read_text())
    assert len(pages) == 1


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "first")
    history = run_dir / "metrics.jsonl"
    history.write_text(history.read_text() + '{"step": 6, "tra')
    assert len(read_run(run_dir).history) == 6


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.yaml", None, "not a run directory"),
        ("config.yaml", "a: [", "invalid YAML"),
        ("config.yaml", "", "holds nothing"),
        ("evaluation.json", "{", "not JSON"),
        ("evaluation.json", "[]", "holds a list where an object belongs"),
        ("evaluation.json", "{}", "metrics: Field required"),
        ("metrics.jsonl", "{\n{}\n", r"metrics\.jsonl, line 1"),
        ("metrics.jsonl", "{}\n", "step: Field required"),
    ],
)
def test_broken_run(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    run_dir = make_run(tmp_path / "first")
    if text is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_run(run_dir)
    assert "first" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_run() -> None:
    with pytest.raises(UserError, match="at least one run"):
        write_report(Path("report.html"), [])


@given(st.text(), st.text())
def test_marking_keeps_the_text(question: str, answer: str) -> None:
    facts = distinctive(question, answer)
    pieces = mark(answer, facts)
    assert "".join(piece.text for piece in pieces) == answer
    assert all(bool(facts & set(words_of(piece.text))) for piece in pieces if piece.marked)


def test_pareto_front_by_hand() -> None:
    places = {0: (0.5, -1.0), 1: (0.6, -2.0), 2: (0.55, -2.0), 3: (0.4, -1.0), 4: (0.6, -2.0)}
    assert pareto_front(places) == [0, 1, 4]  # 2 and 3 are beaten in one figure and equal in the other


def test_runs_of_the_same_name_are_told_apart() -> None:
    assert distinct_names([Path("/r/a/unlearn"), Path("/r/b/unlearn")]) == ["a/unlearn", "b/unlearn"]
    assert distinct_names([Path("/r/a"), Path("/r/b"), Path("/r/b")]) == ["a", "b", "b"]


def test_interval_of_a_known_mean() -> None:
    low, high = mean_interval([0.0, 1.0] * 50)
    error = 1.96 * math.sqrt(0.25 / 100)
    assert low == pytest.approx(0.5 - error, abs=0.03)
    assert high == pytest.approx(0.5 + error, abs=0.03)
