"""The suite `muse`: MUSE's verbatim and knowledge memorization and privleak, on local rows (Shi et al. 2024)."""

from altpo_ds.alternates.question import sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.section import Source
from altpo_ds.data.rows import QARow, parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.data.trees import Tree
from altpo_ds.engine.distributed import together
from altpo_ds.engine.generation import Sampling
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.metrics import rouge_l_f1
from altpo_ds.evaluate.privacy_metrics import extraction_strength, membership_auc, min_k, privleak
from altpo_ds.evaluate.result import Result

STOP = ("\n\n", "\nQuestion", "Question:")
SHOWN = 80  # characters of a document in the results
AUC = "muse_mia_min_k_auc"


def muse(context: Context) -> Result:
    """ROUGE-L F1 of continuations and of few-shot answers, extraction strength of the forget texts, privleak."""
    result = Result()
    for split in ("forget", "retain"):
        _verbatim(context, result, split)
        _knowledge(context, result, split)
    _privleak(context, result)
    return result


def _rows(context: Context, key: str) -> list[QARow]:
    """The rows of one source; none where the run does not name it. UserError for a broken one."""
    source: Source | None = getattr(context.settings.muse, key)
    rows: list[QARow] = []
    with together():
        for _, row in parsed(source, parse_qa) if source is not None else ():
            if isinstance(row, Problem):
                raise UserError(f"{row}; evaluation rows are never skipped")
            rows.append(row)
        if source is not None and not rows:
            raise UserError(f"evaluate.muse.{key}: '{source.path}' holds no rows")
    return rows[: context.settings.max_rows]


def _verbatim(context: Context, result: Result, split: str) -> None:
    """The text is continued greedily; the true continuation counts up to the same number of tokens."""
    key, name = f"{split}_verbatim", f"muse_{split}_verbatim"
    rows, limit = _rows(context, key), context.settings.muse.verbatim_tokens
    prompts = [tuple(context.chat.plain(row.question or "")) for row in rows]
    truths = [tuple(context.chat.response(None, row.answer)[:-1][:limit]) for row in rows]
    responses = context.generate(prompts, Sampling(max_new_tokens=limit)) if rows else []
    scored = []
    for row, truth, response in zip(rows, truths, responses, strict=True):
        expected, text = context.text(truth), context.text(response[0])
        scores = {"generation": text, "rouge_l_f1": rouge_l_f1(text, expected)}
        scored.append({"question": row.question, "answer": expected} | scores)
    if split == "forget":
        trees = [Tree(prompt, (truth,)) for prompt, truth in zip(prompts, truths, strict=True)]
        found = context.score_tokens(trees)
        for row, (_, tokens) in zip(scored, found, strict=True):
            row["extraction_strength"] = extraction_strength(tokens.greedy.tolist(), context.settings.dialect)
        strengths = [row["extraction_strength"] for row in scored]
        result.mean("muse_extraction_strength", strengths, f"no rows were given (evaluate.muse.{key})")
    if scored:
        result.columns(name, scored)
    result.mean(name, [row["rouge_l_f1"] for row in scored], f"no rows were given (evaluate.muse.{key})")


def _knowledge(context: Context, result: Result, split: str) -> None:
    """Questions without a chat template, behind answered ones, to be answered in a line."""
    key, name = f"{split}_knowledge", f"muse_{split}_knowledge"
    rows, limit = _rows(context, key), context.settings.muse.knowledge_tokens
    shown = "".join(
        f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in _rows(context, f"{split}_few_shot")
    )
    prompts = [context.chat.plain(f"{shown}Question: {row.question}\nAnswer: ") for row in rows]
    responses = context.generate(prompts, Sampling(max_new_tokens=limit, stop=STOP)) if rows else []
    scored = []
    for row, response in zip(rows, responses, strict=True):
        text = sample(context.text(response[0]), len(response[0]), True, STOP).text
        scores = {"generation": text, "rouge_l_f1": rouge_l_f1(text, row.answer)}
        scored.append({"question": row.question, "answer": row.answer} | scores)
    if scored:
        result.columns(name, scored)
    result.mean(name, [row["rouge_l_f1"] for row in scored], f"no rows were given (evaluate.muse.{key})")


def _privleak(context: Context, result: Result) -> None:
    """Min-k% of forget against holdout documents, compared with the retain model's."""
    splits = ("forget", "holdout")
    documents = {split: _rows(context, f"{split}_documents") for split in splits}
    if not all(documents.values()):
        for name in (AUC, "muse_privleak"):
            result.lack(name, "needs documents of both kinds (evaluate.muse.forget_documents, holdout_documents)")
        return
    scores: dict[str, list[float]] = {}
    for split, rows in documents.items():
        found = [min_k(tokens.log_probs.tolist()) for _, tokens in context.score_tokens(_trees(context, rows))]
        scores[split] = [score for score in found if score is not None]
        result.columns(
            f"muse_{split}_documents",
            [
                {"question": str(row.place), "answer": row.answer[:SHOWN], "min_k": score}
                for row, score in zip(rows, found, strict=True)
            ],
        )
    auc = membership_auc(scores["forget"], scores["holdout"])
    result.metrics[AUC], result.intervals[AUC] = auc.value, auc.interval
    reference = context.reference.metrics.get(AUC) if context.reference else None
    if reference is None:
        result.lack(
            "muse_privleak", "needs the retain model's evaluation with the suite muse (evaluate.retain_reference)"
        )
    else:
        result.metrics["muse_privleak"] = privleak(auc.value, reference)


def _trees(context: Context, rows: list[QARow]) -> list[Tree]:
    """Documents up to the limit, without their end-of-turn token."""
    trees, limit = [], context.settings.muse.document_tokens
    for row in rows:
        if row.question is None:
            prompt, response = context.chat.document(row.answer)
        else:
            prompt, response = context.chat.prompt(row.question), context.chat.response(row.question, row.answer)
        with_text = response[:-1] or response  # a document of one token has nothing else to predict
        trees.append(Tree(tuple(prompt), (tuple(with_text[: max(1, limit - len(prompt))]),)))
    return trees
