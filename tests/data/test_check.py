"""Validation counts, lists and stops the same on any number of ranks."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesSource, DataConfig, RetainSource, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.check import Checked, check_share, decide, merge
from altpo_ds.data.sources import Place
from altpo_ds.data.stream import TrainStream
from tests.conftest import Tiny, write_jsonl

Row = dict[str, Any]


@pytest.fixture(scope="module")
def chat(tiny: Tiny) -> ChatTokenizer:
    return ChatTokenizer(AutoTokenizer.from_pretrained(tiny.model))


def good(count: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Forget, alternates and retain rows, all sound."""
    forget = [{"question": f"Where is {i}?", "answer": f"In {i}."} for i in range(count)]
    alternates = [
        {"question": row["question"], "alternates": [f"Near {i}.", f"By {i}."]} for i, row in enumerate(forget)
    ]
    retain = [{"question": f"Who is {i}?", "answer": f"A {i}."} for i in range(count)]
    return forget, alternates, retain


class Case:
    """Data files and the configuration that names them."""

    def __init__(self, folder: Path, forget: list[Row], alternates: list[Row], retain: list[Row], **more: Any) -> None:
        self.forget = write_jsonl(folder / "forget.jsonl", forget)
        self.retain = write_jsonl(folder / "retain.jsonl", retain)
        self.alternates = write_jsonl(folder / "alternates.jsonl", alternates)
        self.config = DataConfig(
            forget=Source(path=str(self.forget)),
            alternates=AlternatesSource(path=str(self.alternates)),
            retain=RetainSource(path=str(self.retain)),
            train=RetainSource(path=str(self.retain)),
            **{"alternates_per_question": 2, **more},
        )
        assert self.config.alternates is not None
        self.index = AlternatesIndex(self.config.alternates)

    def check(self, chat: ChatTokenizer, ranks: int = 1) -> Checked:
        return merge([check_share(self.config, chat, self.index, rank, ranks) for rank in range(ranks)])

    def place(self, file: Path, row: int) -> Place:
        return Place(str(file), row)


def broken_case(folder: Path, **more: Any) -> Case:
    """6 questions: 1 sound; 2 without alternates, 3 equal to an alternate, 4 too long, 5 with a broken answer,
    6 sound, but short of alternates. Of 6 retain rows the first is too long, the second has no answer; one alternates
    row is broken."""
    forget, alternates, retain = good(6)
    alternates[1] = {"question": "Where is nobody?", "alternates": ["There."]}
    alternates[2]["alternates"] = ["Near 2.", " In 2. "]
    forget[3]["answer"] = "word " * 300
    forget[4]["answer"] = 5
    alternates[5]["alternates"] = ["Near 5."]
    retain[0]["answer"] = "word " * 300
    del retain[1]["answer"]
    return Case(folder, forget, [*alternates, {"question": "Where is 0?"}], retain, max_tokens=128, **more)


def test_sound_data_have_no_problems(tmp_path: Path, chat: ChatTokenizer) -> None:
    case = Case(tmp_path, *good(5))
    found = case.check(chat)
    assert (found.forget, found.retain, found.short, found.problems) == (5, 5, 0, [])
    rows = decide(case.config, found, unlearning=True)
    assert (rows.forget, rows.retain, rows.skipped) == (5, 5, frozenset())


def test_every_problem_is_found_and_named(tmp_path: Path, chat: ChatTokenizer) -> None:
    case = broken_case(tmp_path)
    found = case.check(chat)
    assert (found.forget, found.retain, found.short) == (2, 4, 1)
    expected = {
        case.place(case.alternates, 7): ("alternates", "is missing, and so is"),
        case.place(case.forget, 2): ("question", "has no alternates"),
        case.place(case.forget, 3): ("question", f"an alternate ({case.alternates} row 3) equals the original answer"),
        case.place(case.forget, 4): ("answer", "data.max_tokens is 128"),
        case.place(case.forget, 5): ("answer", "is int"),
        case.place(case.retain, 1): ("answer", "data.max_tokens is 128"),
        case.place(case.retain, 2): ("answer", "is missing; the row has 'question'"),
    }
    assert [problem.place for problem in found.problems] == sorted(expected)
    for problem in found.problems:
        column, what = expected[problem.place]
        assert problem.column == column
        assert what in problem.what


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_findings_do_not_depend_on_the_number_of_ranks(tmp_path: Path, chat: ChatTokenizer, ranks: int) -> None:
    case = broken_case(tmp_path)
    assert case.check(chat, ranks) == case.check(chat)


def test_stop_names_the_first_problem_and_how_many_more(tmp_path: Path, chat: ChatTokenizer) -> None:
    case = broken_case(tmp_path)
    with pytest.raises(UserError) as caught:
        decide(case.config, case.check(chat), unlearning=True)
    message = str(caught.value)
    assert message.startswith(f"{case.alternates} row 7, column 'alternates': ")
    assert "(and 6 more); mend it, or set data.on_error=skip" in message
    assert "\n" not in message


def test_skip_leaves_what_the_stream_then_gives(tmp_path: Path, chat: ChatTokenizer) -> None:
    case = broken_case(tmp_path, on_error="skip")
    rows = decide(case.config, case.check(chat), unlearning=True)
    assert (rows.forget, rows.retain) == (2, 4)
    stream = TrainStream(case.config, 0, rows, case.index, 0, 1)
    items = [next(stream) for _ in range(4)]
    asked = [str(item.forget.question) for item in items if item.forget is not None]
    assert sorted(asked[:2]) == sorted(asked[2:]) == ["Where is 0?", "Where is 5?"]
    kept = {str(row.question) for item in items for row in item.retain}
    assert kept == {f"Who is {i}?" for i in range(2, 6)}


def test_an_alternate_that_is_too_long_breaks_its_question(tmp_path: Path, chat: ChatTokenizer) -> None:
    forget, alternates, retain = good(2)
    alternates[1]["alternates"][0] = "word " * 300
    case = Case(tmp_path, forget, alternates, retain, max_tokens=128)
    [problem] = case.check(chat).problems
    assert problem.place == case.place(case.forget, 2)
    assert f"an alternate ({case.alternates} row 2)" in problem.what


def test_the_limit_counts_prompt_and_response(tmp_path: Path, chat: ChatTokenizer) -> None:
    forget, alternates, retain = good(1)
    longest = max(
        len(chat.prompt(row["question"])) + len(chat.response(row["question"], text))
        for row, text in [(forget[0], forget[0]["answer"]), (retain[0], retain[0]["answer"])]
        + [(forget[0], text) for text in alternates[0]["alternates"]]
    )
    assert Case(tmp_path, forget, alternates, retain, max_tokens=longest).check(chat).problems == []
    assert Case(tmp_path, forget, alternates, retain, max_tokens=longest - 1).check(chat).problems


def test_a_question_that_fits_no_micro_batch_is_refused(tmp_path: Path, chat: ChatTokenizer) -> None:
    forget, alternates, retain = good(2)
    question, answer = forget[1]["question"], forget[1]["answer"]
    alternates[1]["alternates"] = ["Near it.", "word " * 20, "By some far away sea."]
    case = Case(tmp_path, forget, alternates, retain)
    texts = (answer, "word " * 20, "By some far away sea.")  # with the longest two of three
    tokens = len(chat.prompt(question)) + sum(len(chat.response(question, text)) for text in texts)
    assert check_share(case.config, chat, case.index, 0, 1, tokens).problems == []
    [problem] = check_share(case.config, chat, case.index, 0, 1, tokens - 1).problems
    assert problem.place == case.place(case.forget, 2)
    what = f"the question with 2 alternates takes up to {tokens} tokens, train.micro_batch_tokens is {tokens - 1}; "
    assert problem.what == what + "raise it, or lower data.alternates_per_question"


def test_fine_tuning_checks_its_own_rows(tmp_path: Path, chat: ChatTokenizer) -> None:
    case = broken_case(tmp_path)
    parts = [check_share(case.config, chat, None, rank, 2) for rank in range(2)]
    found = merge(parts)
    assert (found.forget, found.retain) == (0, 4)
    assert [problem.place.row for problem in found.problems] == [1, 2]


def test_a_source_without_a_usable_row_is_an_error(tmp_path: Path, chat: ChatTokenizer) -> None:
    forget, alternates, retain = good(2)
    nothing_to_forget = Case(tmp_path, forget, [], retain, on_error="skip")
    found = nothing_to_forget.check(chat)
    with pytest.raises(UserError, match=r"data\.forget: no usable row; the first of 2 skipped: .* has no alternates"):
        decide(nothing_to_forget.config, found, unlearning=True)
    nothing_to_keep = Case(tmp_path, forget, alternates, [], on_error="skip")
    found = nothing_to_keep.check(chat)
    with pytest.raises(UserError, match=r"data\.retain: no usable row"):
        decide(nothing_to_keep.config, found, unlearning=True)
    alone = nothing_to_keep.config.model_copy(update={"retain_per_pair": 0})
    assert decide(alone, found, unlearning=True).forget == 2
    with pytest.raises(UserError, match=r"data\.train: no usable row"):
        decide(alone, check_share(alone, chat, None, 0, 1), unlearning=False)
