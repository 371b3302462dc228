"""The suite `quality`: do the answers read as text, hold together, and keep the forgotten fact to themselves?"""

from collections.abc import Sequence

from altpo_ds.alternates.words import distinct_n, distinctive, words
from altpo_ds.config.errors import UserError
from altpo_ds.data.stream import draw_seed
from altpo_ds.evaluate.cleanness import EMBEDDED, Cleanness, cleanness
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.inputs import Example
from altpo_ds.evaluate.ks import few_rows, ks_test
from altpo_ds.evaluate.metrics import UTILITY_SPLITS, Row
from altpo_ds.evaluate.quality_metrics import consistency, leaks, repetition
from altpo_ds.evaluate.result import Result

SPLITS = ("forget", "retain")
CI = "cleanness_indistinguishability"


def quality(context: Context) -> Result:
    """Cleanness of the forget answers, repetition and diversity, consistency, and leaks in sampled answers."""
    result = Result()
    for split in SPLITS:
        texts = [text for text in context.generations.get(split, []) if words(text)]
        reason = f"all generations are empty, or no {split} rows were given"
        result.mean(f"{split}_repetition", [repetition(text) for text in texts], reason)
        for n in (1, 2):
            result.metrics[f"{split}_distinct_{n}"] = distinct_n(texts, n)
            if not texts:
                result.lack(f"{split}_distinct_{n}", reason)
    _cleanness(context, result)
    _samples(context, result)
    _paraphrases(context, result)
    return result


def _cleanness(context: Context, result: Result) -> None:
    texts, settings = context.generations["forget"], context.settings
    # What is to be forgotten must not teach the judge what a clean answer is.
    kept = [example.row for example in context.examples if example.split in UTILITY_SPLITS]
    clean = sorted({text for row in kept for text in (row.question, row.answer)})
    found = cleanness(texts, clean, settings.classifier, context.config.seed, context.world)
    result.columns("forget", [{"generation": t, "clean": score} for t, score in zip(texts, found.scores, strict=True)])
    result.settings["classifier"] = found.classifier
    result.mean("text_cleanness", found.scores)
    notes = []
    if found.classifier["name"] == EMBEDDED:
        notes.append("by the embedded classifier: not comparable with published figures")
    if empty := sum(not text.strip() for text in texts):
        notes.append(f"{empty} of {len(texts)} generations are empty and count as 0")
    if notes:
        result.notes["text_cleanness"] = "; ".join(notes)
    _indistinguishability(context, found, result)


def _indistinguishability(context: Context, found: Cleanness, result: Result) -> None:
    reference = context.reference
    names = (CI, f"{CI}_ks", f"{CI}_log10")
    questions = [example.row.question for example in context.examples if example.split == "forget"]
    rows: Sequence[Row] = reference.matching("forget", questions) if reference else []
    if not rows or any("clean" not in row for row in rows):
        for name in names:
            result.lack(name, "needs the retain model's evaluation with the suite quality (evaluate.retain_reference)")
        return
    assert reference
    if reference.settings.get("classifier") != found.classifier:
        raise UserError(
            f"retain reference: its cleanness is by the classifier {reference.settings.get('classifier')}, here by "
            f"{found.classifier}: evaluate the retain model with the same classifier, rows and seed"
        )
    test = ks_test(found.scores, [row["clean"] for row in rows], CI)
    for name, value in zip(names, (test.pvalue, test.statistic, test.log10_pvalue), strict=True):
        result.metrics[name] = value
    if note := few_rows(len(rows)):
        result.notes[CI] = note


def _samples(context: Context, result: Result) -> None:
    """Sampled answers to each forget question: how many give the fact away, and how often two agree."""
    asked = [example for example in context.examples if example.split == "forget"]
    count, seed = context.settings.samples, context.config.seed
    sampling = context.sampling(temperature=1.0, samples=count)
    seeds = [[draw_seed(seed, "evaluate", example.number, i) for i in range(count)] for example in asked]
    responses = context.generate([example.tree.prompt for example in asked], sampling, seeds)
    texts = [[context.text(ids) for ids in of_question] for of_question in responses]
    result.columns("forget", [{"samples": of_question} for of_question in texts])
    told = [
        [leaks(example.row.question, example.row.answer, text) for text in of_question]
        for example, of_question in zip(asked, texts, strict=True)
        if distinctive(example.row.question, example.row.answer)
    ]
    nothing = "no forget answer has words that its question does not give away"
    result.mean("forget_leak_rate", [sum(of_question) / count for of_question in told], nothing)
    result.mean("forget_leak_any", [float(any(of_question)) for of_question in told], nothing)
    result.notes["forget_leak_rate"] = f"{count} samples a question at temperature 1"
    pairs = zip(asked, texts, strict=True)
    agreed = [consistency(example.row.question, of_question) for example, of_question in pairs] if count > 1 else []
    result.mean("forget_sample_consistency", agreed, "needs two samples or more (evaluate.samples)")


def _paraphrases(context: Context, result: Result) -> None:
    """How often the greedy answers to a question and to the same in other words agree."""
    greedy = context.generations["forget"]
    forget = [example for example in context.examples if example.split == "forget"]
    asked: list[tuple[int, Example, str]] = [
        (number, example, question)
        for number, example in enumerate(forget)
        for question in example.row.paraphrased_question
    ]
    prompts = [context.chat.prompt(question) for _, _, question in asked]
    responses = context.generate(prompts, context.sampling()) if prompts else []
    answers: dict[int, list[str]] = {}
    for (number, _, _), response in zip(asked, responses, strict=True):
        answers.setdefault(number, [greedy[number]]).append(context.text(response[0]))
    if answers:
        result.columns("forget", [{"paraphrase_answers": answers.get(i, [])[1:]} for i in range(len(forget))])
    result.mean(
        "forget_paraphrase_consistency",
        [consistency(forget[number].row.question, texts) for number, texts in answers.items()],
        "the forget rows hold no question in other words (column paraphrased_question)",
    )
