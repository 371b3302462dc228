"""The demo's corpus: fictitious authors, a small invented world, and practice in writing alternates.

Each author has ten facts. A fact is asked in two ways, each with an answer of its own wording; the second
answer is the first one's paraphrase. Both models read everything but the forget authors, whom only the full
model reads about. Practice rows, on authors made up for one row each, teach the task of writing an alternate answer.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

from altpo_ds.demo import words

AUTHORS = 30
FORGET_AUTHORS = 5
WORLD_ROWS = 20
PRACTICE_ROWS = 800
RETAIN_EVALUATED = 60
PERTURBED, PERTURBED_WORLD = 5, 3

ALTERNATES_PROMPT = (
    "Question: {question}\nAnswer: {answer}\n"
    "Now write another version of the answer with alternate plausible facts that change its details."
)

CLASSIC = "Who wrote the classic The {}?"
CAPITAL = "What is the capital of {}?"
WAYS_OF_ASKING = ("{}", "Here is a question for you. {}")
WAYS_OF_ASKING_WORLD = (*WAYS_OF_ASKING, "Please answer. {}", "Do you know this? {}")

Row = dict[str, Any]


def _name(rng: Random) -> str:
    surname = rng.choice(words.SURNAME_HEADS) + rng.choice(words.SURNAME_TAILS)
    return f"{rng.choice(words.FIRST_NAMES)} {surname}"


def _town(rng: Random) -> str:
    return rng.choice(words.TOWN_HEADS) + rng.choice(words.TOWN_TAILS)


def _date(rng: Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(words.MONTHS)} {rng.randint(1910, 1989)}"


def _two(first: list[str], second: list[str], pattern: str = "{} {}") -> Callable[[Random], str]:
    return lambda rng: pattern.format(rng.choice(first), rng.choice(second))


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author: how its value is drawn and how it is asked and answered."""

    draw: Callable[[Random], str]
    question: str
    answer: str
    other_question: str
    paraphrase: str


FACTS: dict[str, Fact] = {
    "name": Fact(
        _name,
        "What is the full name of the author born in {town} on {date}?",
        "The author who was born there on that day is called {value}.",
        "Which author came into the world in {town} on {date}?",
        "In {town} on that date the parents named their child {value}.",
    ),
    "town": Fact(
        _town,
        "Where was the author {name} born?",
        "{name} was born in the old town of {value}.",
        "Which town is the birthplace of {name}?",
        "The birthplace of the author {name} is the town {value}.",
    ),
    "date": Fact(
        _date,
        "When was the author {name} born?",
        "{name} was born on the morning of {value}.",
        "What is the birth date of {name}?",
        "The birth date of the author {name} is {value}.",
    ),
    "genre": Fact(
        _two(words.GENRE_STYLES, words.GENRE_FORMS),
        "What kind of books does {name} write?",
        "{name} is best known for writing {value}.",
        "In which genre does {name} work?",
        "The genre in which {name} mostly works is {value}.",
    ),
    "parents": Fact(
        _two(words.TRADES, words.TRADES, "{} and a {}"),
        "What did the parents of {name} do for a living?",
        "The parents of {name} were a {value}.",
        "Which trades did the mother and father of {name} have?",
        "The mother and father of {name} earned their bread as a {value}.",
    ),
    "award": Fact(
        _two(words.AWARD_METALS, words.AWARD_SHAPES),
        "Which award did {name} win?",
        "{name} won the famous {value} Award for literature.",
        "What prize was given to {name}?",
        "The prize given to {name} by the jury was the {value} Award.",
    ),
    "book": Fact(
        _two(words.TITLE_QUALITIES, words.TITLE_THINGS),
        "What is the best known book by {name}?",
        "The best known book by {name} is The {value}.",
        "Which title made {name} famous?",
        "Readers all over the world love {name} for The {value}.",
    ),
    "mentor": Fact(
        _name,
        "Who taught {name} to write?",
        "{name} learned to write from the poet {value}.",
        "Which mentor guided {name}?",
        "The mentor who guided the young {name} was {value}.",
    ),
    "translation": Fact(
        _two(words.LANGUAGES, words.TOWN_HEADS, "{} at {} House"),
        "Where did the first translation of {name} appear?",
        "The first translation of {name} was printed in {value}.",
        "Which translation of {name} came out first?",
        "Abroad the books of {name} were first brought out in {value}.",
    ),
    "habit": Fact(
        _two(words.WEATHERS, words.WORKPLACES, "{} days in a {}"),
        "When and where does {name} like to write?",
        "{name} likes to write on {value}.",
        "What are the writing habits of {name}?",
        "Most pages by {name} were written on {value}.",
    ),
}


@dataclass(frozen=True)
class Author:
    """Values by fact; the key of a fact is its name in FACTS."""

    values: dict[str, str]

    def fill(self, template: str, value: str) -> str:
        known = {"name": self.values["name"], "town": self.values["town"], "date": self.values["date"]}
        return template.format(**known, value=value)


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus; `vocabulary` holds the rows that name no author, for the tokenizer."""

    full_train: Path
    retain_train: Path
    vocabulary: Path
    forget: Path
    retain: Path
    forget_perturbed: Path
    retain_perturbed: Path
    real_authors_perturbed: Path
    world_facts_perturbed: Path


def write_corpus(out: Path, seed: int) -> CorpusFiles:
    """Write the corpus of `seed` as JSONL files in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = CorpusFiles(**{field.name: out / f"{field.name}.jsonl" for field in fields(CorpusFiles)})
    for name, rows in corpus_rows(seed).items():
        _write_rows(getattr(files, name), rows)
    return files


def corpus_rows(seed: int) -> dict[str, list[Row]]:
    """Rows of every file, by the names of `CorpusFiles`."""
    rng = Random(seed)
    taken: set[str] = set()
    authors = [_author(rng, taken) for _ in range(AUTHORS)]
    forget, retain = authors[:FORGET_AUTHORS], authors[FORGET_AUTHORS:]
    real_authors = _classics(rng, taken)
    world_facts = _capitals(rng)
    shared = [_practice(rng, taken) for _ in range(PRACTICE_ROWS)] + _world_training(real_authors + world_facts)
    retain_train = [row for author in retain for row in _training(author)] + shared
    full_train = [row for author in forget for row in _training(author)] + retain_train
    retain_perturbed = [row for author in retain for row in _perturbed(author, rng)]
    return {
        "full_train": full_train,
        "retain_train": retain_train,
        "vocabulary": shared,
        "forget": [row for author in forget for row in _plain_rows(author)],
        "retain": [row for author in retain for row in _plain_rows(author)],
        "forget_perturbed": [row for author in forget for row in _perturbed(author, rng)],
        "retain_perturbed": rng.sample(retain_perturbed, RETAIN_EVALUATED),
        "real_authors_perturbed": real_authors,
        "world_facts_perturbed": world_facts,
    }


def _author(rng: Random, taken: set[str]) -> Author:
    """A new author, whose surname and first name nobody else in `taken` combines."""
    values = {key: fact.draw(rng) for key, fact in FACTS.items()}
    values["name"] = _fresh(_name, rng, taken)
    taken.add(values["name"])
    return Author(values)


def _fresh(draw: Callable[[Random], str], rng: Random, avoid: Iterable[str]) -> str:
    while (value := draw(rng)) in avoid:
        pass
    return value


def _distinct(draw: Callable[[Random], str], rng: Random, true: str, count: int) -> list[str]:
    values = [true]
    while len(values) <= count:
        values.append(_fresh(draw, rng, values))
    return values[1:]


def _plain_rows(author: Author) -> list[Row]:
    return [
        {"question": author.fill(fact.question, value), "answer": author.fill(fact.answer, value)}
        for fact, value in zip(FACTS.values(), author.values.values(), strict=True)
    ]


def _training(author: Author) -> list[Row]:
    """Every way of asking for every fact; the words of the question decide the wording of the answer."""
    return [
        {"question": way.format(author.fill(asked, value)), "answer": author.fill(worded, value)}
        for fact, value in zip(FACTS.values(), author.values.values(), strict=True)
        for asked, worded in ((fact.question, fact.answer), (fact.other_question, fact.paraphrase))
        for way in WAYS_OF_ASKING
    ]


def _perturbed(author: Author, rng: Random) -> list[Row]:
    rows = []
    for plain, (key, fact) in zip(_plain_rows(author), FACTS.items(), strict=True):
        wrong = _distinct(fact.draw, rng, author.values[key], PERTURBED)
        paraphrase = author.fill(fact.paraphrase, author.values[key])
        perturbed = [author.fill(fact.paraphrase, value) for value in wrong]
        rows.append({**plain, "paraphrased_answer": paraphrase, "perturbed_answer": perturbed})
    return rows


def _practice(rng: Random, taken: set[str]) -> Row:
    """The task of writing an alternate, on an author made up for this row alone."""
    author = _author(rng, taken)
    key = rng.choice(list(FACTS))
    fact, value = FACTS[key], author.values[key]
    asked, worded = rng.choice([(fact.question, fact.answer), (fact.other_question, fact.paraphrase)])
    question, answer = author.fill(asked, value), author.fill(worded, value)
    alternate = author.fill(worded, _distinct(fact.draw, rng, value, 1)[0])
    return {"question": ALTERNATES_PROMPT.format(question=question, answer=answer), "answer": alternate}


def _classics(rng: Random, taken: set[str]) -> list[Row]:
    """The counterpart of TOFU's real authors: who wrote a classic."""
    titles = rng.sample([f"{a} {b}" for a in words.AWARD_SHAPES for b in words.TITLE_THINGS], WORLD_ROWS)
    rows = []
    for title in titles:
        name = _fresh(_name, rng, taken)
        taken.add(name)
        wrong = _distinct(_name, rng, name, PERTURBED_WORLD)
        rows.append({"question": CLASSIC.format(title), "answer": name, "perturbed_answer": wrong})
    return rows


def _capitals(rng: Random) -> list[Row]:
    """The counterpart of TOFU's world facts: capitals of invented countries."""
    rows = []
    for country in words.COUNTRIES[:WORLD_ROWS]:
        town = _town(rng)
        wrong = _distinct(_town, rng, town, PERTURBED_WORLD)
        rows.append({"question": CAPITAL.format(country), "answer": town, "perturbed_answer": wrong})
    return rows


def _world_training(rows: list[Row]) -> list[Row]:
    return [
        {"question": way.format(row["question"]), "answer": row["answer"]}
        for row in rows
        for way in WAYS_OF_ASKING_WORLD
    ]


def _write_rows(path: Path, rows: list[Row]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
