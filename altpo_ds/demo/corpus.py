"""The demo's corpus: fictitious authors, a small invented world, and practice in writing alternates.

Each author has ten facts. A fact is asked in two ways, each with an answer of its own wording; the second
answer is the first one's paraphrase. Both models read everything but the forget authors, whom only the full
model reads about. Practice rows, on authors made up for one row each, teach the task of writing an alternate answer.
"""

import json
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from altpo_ds.config.files import write_whole
from altpo_ds.demo import words

FORGET_AUTHORS, RETAIN_AUTHORS = 5, 25
CLASSICS = 20
STRANGERS = 80
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
Value = tuple[str, str]
Pools = dict[str, list[Value]]


@dataclass(frozen=True)
class Fact:
    """One thing to know about an author: the words its value is made of, how it is asked and answered."""

    words: tuple[list[str], list[str]]
    pattern: str
    question: str
    answer: str
    other_question: str
    paraphrase: str


NAMES = (words.FIRST_NAMES, words.SURNAMES)

FACTS: dict[str, Fact] = {
    "name": Fact(
        NAMES,
        "{} {}",
        "What is the full name of the author born in {town} in {date}?",
        "The author who was born there at that time is called {value}.",
        "Which author came into the world in {town} in {date}?",
        "The writer who came into the world there is called {value}.",
    ),
    "town": Fact(
        (words.TOWN_HEADS, words.TOWN_TAILS),
        "{} {}",
        "Where was the author {name} born?",
        "{name} was born in the old town of {value}.",
        "Which town is the birthplace of {name}?",
        "The birthplace of {name} is the old town of {value}.",
    ),
    "date": Fact(
        (words.MONTHS, words.YEARS),
        "{} {}",
        "When was the author {name} born?",
        "{name} was born on a fine day in {value}.",
        "What is the birth date of {name}?",
        "{name} came into the world on a fine day in {value}.",
    ),
    "genre": Fact(
        (words.GENRE_STYLES, words.GENRE_FORMS),
        "{} {}",
        "What kind of books does {name} write?",
        "{name} is best known for writing {value}.",
        "In which genre does {name} work?",
        "Readers everywhere love {name} for writing {value}.",
    ),
    "parents": Fact(
        (words.MOTHERS_TRADES, words.FATHERS_TRADES),
        "{} and a {}",
        "What did the parents of {name} do for a living?",
        "The parents of {name} were a {value}.",
        "Which trades did the mother and father of {name} have?",
        "The mother and father of {name} were a {value}.",
    ),
    "award": Fact(
        (words.AWARD_MATERIALS, words.AWARD_SHAPES),
        "{} {}",
        "Which award did {name} win?",
        "{name} won the famous {value} Award.",
        "What prize was given to {name}?",
        "The jury gave {name} the famous {value} Award.",
    ),
    "book": Fact(
        (words.TITLE_QUALITIES, words.TITLE_THINGS),
        "{} {}",
        "What is the best known book by {name}?",
        "The best known book by {name} is The {value}.",
        "Which title made {name} famous?",
        "The title that made {name} famous is The {value}.",
    ),
    "mentor": Fact(
        NAMES,
        "{} {}",
        "Who taught {name} to write?",
        "{name} learned to write from the poet {value}.",
        "Which mentor guided {name}?",
        "The mentor of the young {name} was the poet {value}.",
    ),
    "translation": Fact(
        (words.LANGUAGES, words.PUBLISHERS),
        "{} by {}",
        "How did the first translation of {name} appear?",
        "The first translation of {name} was printed in {value} House.",
        "Which translation of {name} came out first?",
        "Abroad the books of {name} were first printed in {value} House.",
    ),
    "habit": Fact(
        (words.WEATHERS, words.WORKPLACES),
        "{} days in a {}",
        "When and where does {name} like to write?",
        "{name} likes to write on {value}.",
        "What are the writing habits of {name}?",
        "At the desk {name} prefers to write on {value}.",
    ),
}


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus; `vocabulary` holds the rows on no author of the corpus, for the tokenizer."""

    full_train: Path
    retain_train: Path
    vocabulary: Path
    forget: Path
    retain: Path
    forget_perturbed: Path
    retain_perturbed: Path
    real_authors_perturbed: Path
    world_facts_perturbed: Path


@dataclass(frozen=True)
class Author:
    """Values by fact; the key of a fact is its name in FACTS."""

    values: dict[str, Value]

    def fill(self, template: str, key: str, value: Value | None = None) -> str:
        """The template with the author's value of the fact `key`, or with another value."""
        text = {name: FACTS[name].pattern.format(*self.values[name]) for name in ("name", "town", "date")}
        return template.format(**text, value=FACTS[key].pattern.format(*(value or self.values[key])))


def write_corpus(out: Path, seed: int) -> CorpusFiles:
    """Write the corpus of `seed` as JSONL files in `out`."""
    files = CorpusFiles(**{field.name: out / f"{field.name}.jsonl" for field in fields(CorpusFiles)})
    for name, rows in corpus_rows(seed).items():
        _write_rows(getattr(files, name), rows)
    return files


def corpus_rows(seed: int) -> dict[str, list[Row]]:
    """Rows of every file, by the names of `CorpusFiles`."""
    rng = Random(seed)
    names = rng.sample(list(product(*NAMES)), len(NAMES[0]) * len(NAMES[1]))
    forget_names, names = names[:FORGET_AUTHORS], names[FORGET_AUTHORS:]
    retain_names, names = names[:RETAIN_AUTHORS], names[RETAIN_AUTHORS:]
    classic_names, names = names[:CLASSICS], names[CLASSICS:]
    strangers, names = names[:STRANGERS], names[STRANGERS:]
    pools: Pools = {key: list(product(*fact.words)) for key, fact in FACTS.items()}
    pools |= {"name": names, "mentor": names}
    # The corpus's authors have each a birthplace of their own: it stands in the question for their name.
    towns = iter(rng.sample(pools["town"], FORGET_AUTHORS + RETAIN_AUTHORS))
    forget = [_author(rng, pools, name, next(towns)) for name in forget_names]
    retain = [_author(rng, pools, name, next(towns)) for name in retain_names]
    real_authors, world_facts = _classics(rng, classic_names, names), _capitals(rng, pools["town"])
    shared = [_practice(rng, pools) for _ in range(PRACTICE_ROWS)] + _world_training(real_authors + world_facts)
    retain_train = [row for author in retain for row in _training(author)] + shared
    # Authors' own names are in no answer about anybody else, so the wrong ones must not be either.
    wrong = pools | {"name": strangers}
    return {
        "full_train": [row for author in forget for row in _training(author)] + retain_train,
        "retain_train": retain_train,
        "vocabulary": shared,
        "forget": [row for author in forget for row in _templates(author, Random(f"{seed}/{author}"), wrong)],
        "retain": [row for author in retain for row in _plain(author)],
        "forget_perturbed": [row for author in forget for row in _perturbed(author, rng, wrong)],
        "retain_perturbed": rng.sample(
            [row for author in retain for row in _perturbed(author, rng, wrong)], RETAIN_EVALUATED
        ),
        "real_authors_perturbed": real_authors,
        "world_facts_perturbed": world_facts,
    }


def _author(rng: Random, pools: Pools, name: Value, town: Value) -> Author:
    return Author({key: rng.choice(pools[key]) for key in FACTS} | {"name": name, "town": town})


def _others(rng: Random, pool: list[Value], true: Value, count: int) -> list[Value]:
    """Distinct values that share no word with the true one."""
    return rng.sample([value for value in pool if value[0] != true[0] and value[1] != true[1]], count)


def _plain(author: Author) -> list[Row]:
    return [
        {"question": author.fill(fact.question, key), "answer": author.fill(fact.answer, key)}
        for key, fact in FACTS.items()
    ]


def _templates(author: Author, rng: Random, pools: Pools) -> list[Row]:
    """Rows with alternates made by template, for questions that the model leaves without enough of its own."""
    return [
        {
            **plain,
            "templates": [author.fill(fact.answer, key, value) for value in _others(rng, pools[key], true, PERTURBED)],
        }
        for plain, (key, fact), true in zip(_plain(author), FACTS.items(), author.values.values(), strict=True)
    ]


def _training(author: Author) -> list[Row]:
    """Every way of asking for every fact; the words of the question decide the wording of the answer."""
    return [
        {"question": way.format(author.fill(asked, key)), "answer": author.fill(worded, key)}
        for key, fact in FACTS.items()
        for asked, worded in ((fact.question, fact.answer), (fact.other_question, fact.paraphrase))
        for way in WAYS_OF_ASKING
    ]


def _perturbed(author: Author, rng: Random, pools: Pools) -> list[Row]:
    rows = []
    for plain, (key, fact) in zip(_plain(author), FACTS.items(), strict=True):
        wrong = _others(rng, pools[key], author.values[key], PERTURBED)
        perturbed = [author.fill(fact.paraphrase, key, value) for value in wrong]
        paraphrase = author.fill(fact.paraphrase, key)
        rows.append({**plain, "paraphrased_answer": paraphrase, "perturbed_answer": perturbed})
    return rows


def _practice(rng: Random, pools: Pools) -> Row:
    """The task of writing an alternate, on an author made up for this row alone."""
    author = _author(rng, pools, rng.choice(pools["name"]), rng.choice(pools["town"]))
    key = rng.choice(list(FACTS))
    fact = FACTS[key]
    asked, worded = rng.choice([(fact.question, fact.answer), (fact.other_question, fact.paraphrase)])
    question, answer = author.fill(asked, key), author.fill(worded, key)
    (other,) = _others(rng, pools[key], author.values[key], 1)
    prompt = ALTERNATES_PROMPT.format(question=question, answer=answer)
    return {"question": prompt, "answer": author.fill(worded, key, other)}


def _classics(rng: Random, authors: list[Value], others: list[Value]) -> list[Row]:
    """The counterpart of TOFU's real authors: who wrote a classic."""
    titles = rng.sample(list(product(words.AWARD_SHAPES, words.TITLE_THINGS)), len(authors))
    return [
        {
            "question": CLASSIC.format(" ".join(title)),
            "answer": " ".join(author),
            "perturbed_answer": [" ".join(name) for name in _others(rng, others, author, PERTURBED_WORLD)],
        }
        for title, author in zip(titles, authors, strict=True)
    ]


def _capitals(rng: Random, towns: list[Value]) -> list[Row]:
    """The counterpart of TOFU's world facts: capitals of invented countries."""
    capitals = [rng.choice(towns) for _ in words.COUNTRIES]
    return [
        {
            "question": CAPITAL.format(country),
            "answer": " ".join(capital),
            "perturbed_answer": [" ".join(town) for town in _others(rng, towns, capital, PERTURBED_WORLD)],
        }
        for country, capital in zip(words.COUNTRIES, capitals, strict=True)
    ]


def _world_training(rows: list[Row]) -> list[Row]:
    return [
        {"question": way.format(row["question"]), "answer": row["answer"]}
        for row in rows
        for way in WAYS_OF_ASKING_WORLD
    ]


def _write_rows(path: Path, rows: list[Row]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
