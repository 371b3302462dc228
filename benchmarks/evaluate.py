"""Times the TOFU suite against a plain loop in the manner of the AltPO and TOFU authors, and compares the numbers.

    python benchmarks/evaluate.py --model DIR --data FOLDER [--rows 40] [--batch-size 32] [--pad longest]

FOLDER holds forget01_perturbed.jsonl, retain_perturbed.jsonl and real_authors_perturbed.jsonl. The plain loop takes
rows in file order, batches of the same size: one pass for the answers, one for the paraphrases, one for each
perturbation, each row padded to the length limit (`--pad longest`: to the batch's longest row, as OpenUnlearning
does) and projected onto the vocabulary at every position; then a greedy `generate`, in which a batch goes on until its
last row is done. Both sides score with the same metric functions. Prints one JSON line.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import PerturbedRow, parse_perturbed, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.distributed import start, stop
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.evaluate.metrics import rouge_l_recall, tofu_metrics
from altpo_ds.evaluate.run import Evaluator

SPLITS = {"forget": "forget01", "retain": "retain", "real_authors": "real_authors"}
NLLS = ("answer_nll", "paraphrased_nll", "perturbed_nll")


class PlainLoop:
    """The authors' evaluation: a padded pass for each version of the answer, then a padded generation."""

    def __init__(self, config: RunConfig, chat: ChatTokenizer, batch_size: int, pad: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32).eval()
        self.config, self.chat, self.batch_size, self.pad = config.evaluate, chat, batch_size, pad

    @torch.no_grad()
    def __call__(self) -> dict[str, list[dict[str, Any]]]:
        return {split: [row for batch in self._batches(split) for row in self._batch(batch)] for split in SPLITS}

    def _batches(self, split: str) -> Iterator[list[PerturbedRow]]:
        found = [row for _, row in parsed(getattr(self.config, split), parse_perturbed) if not isinstance(row, Problem)]
        rows = found[: self.config.max_rows]
        for first in range(0, len(rows), self.batch_size):
            yield rows[first : first + self.batch_size]

    def _batch(self, rows: Sequence[PerturbedRow]) -> list[dict[str, Any]]:
        answers = self._nlls(rows, [row.answer for row in rows])
        paraphrases = self._nlls(rows, [row.paraphrased_answer for row in rows])
        count = min(len(row.perturbed_answer) for row in rows)
        perturbed = [self._nlls(rows, [row.perturbed_answer[k] for row in rows]) for k in range(count)]
        texts = self._generate(rows)
        return [
            {
                "question": row.question,
                "answer": row.answer,
                "generation": texts[i],
                "answer_nll": answers[i],
                "paraphrased_nll": paraphrases[i],
                "perturbed_nll": [of_all[i] for of_all in perturbed],
                "rouge_l": rouge_l_recall(texts[i], row.answer),
            }
            for i, row in enumerate(rows)
        ]

    def _nlls(self, rows: Sequence[PerturbedRow], texts: Sequence[str]) -> list[float]:
        """Mean negative log-likelihood per token of each text as the answer to its question."""
        pairs = [
            (self.chat.prompt(row.question), self.chat.response(row.question, text))
            for row, text in zip(rows, texts, strict=True)
        ]
        longest = max(len(prompt) + len(response) for prompt, response in pairs)
        width = self.config.max_length if self.pad == "limit" else longest
        if longest > width:
            raise SystemExit(f"a row has {longest} tokens, the limit is {width}: set --max-length")
        pad = self.chat.tokenizer.eos_token_id
        ids = torch.tensor([[*p, *r, *[pad] * (width - len(p) - len(r))] for p, r in pairs])
        labels = torch.tensor([[*[-100] * len(p), *r, *[-100] * (width - len(p) - len(r))] for p, r in pairs])
        mask = torch.tensor([[int(i < len(p) + len(r)) for i in range(width)] for p, r in pairs])
        logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        # Along a dimension that is not the last one torch sums 49,152 exponentials less exactly: 1e-4 off.
        losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
        return (losses.view(len(pairs), -1).sum(-1) / (labels != -100).sum(-1)).tolist()

    def _generate(self, rows: Sequence[PerturbedRow]) -> list[str]:
        tokenizer = self.chat.tokenizer
        prompts = [self.chat.prompt(row.question) for row in rows]
        width, pad = max(map(len, prompts)), tokenizer.eos_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        limits = [max(1, self.config.max_length - len(p)) for p in prompts]
        # `generate` would count the padding as part of a row's length; each row gets what it would have alone.
        output = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=max(limits), do_sample=False, pad_token_id=pad
        )
        kept = [response[:limit] for response, limit in zip(output[:, width:].tolist(), limits, strict=True)]
        return [str(tokenizer.decode(response, skip_special_tokens=True)).strip() for response in kept]


def differences(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """The largest difference of a row's value, and of a metric; the rows whose generated texts differ."""
    pairs = [
        pair for split in SPLITS for pair in zip(ours["per_example"][split], plain["per_example"][split], strict=True)
    ]
    flat = [
        abs(a - b)
        for mine, theirs in pairs
        for name in NLLS
        for a, b in zip(_list(mine[name]), _list(theirs[name]), strict=True)
    ]
    metrics = [abs(ours["metrics"][name] - value) for name, value in plain["metrics"].items() if value is not None]
    return {
        "largest_nll_difference": max(flat),
        "largest_metric_difference": max(metrics),
        "texts_that_differ": sum(mine["generation"] != theirs["generation"] for mine, theirs in pairs),
    }


def _list(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def timed(work: Any, *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    return work(*arguments), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=40, help="of each split")
    parser.add_argument("--batch-size", type=int, default=32, help="rows in one pass and in one generation")
    parser.add_argument("--max-length", type=int, default=200)
    parser.add_argument("--pad", default="limit", choices=["limit", "longest"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = {split: {"path": str(options.data / f"{name}_perturbed.jsonl")} for split, name in SPLITS.items()}
    evaluate = {
        "max_rows": options.rows,
        "max_length": options.max_length,
        "batch_tokens": options.batch_size * options.max_length,
    }
    values = {"run_dir": "unused", "model": {"path": options.model, "dtype": "float32"}, "evaluate": splits | evaluate}
    config = RunConfig.model_validate(values)
    chat = ChatTokenizer(load_tokenizer(options.model))
    # First, while torch is as it comes: `start` replaces its products.
    rows, plain_seconds = timed(PlainLoop(config, chat, options.batch_size, options.pad))
    world = start(config.engine.timeout)
    evaluator, engine = Evaluator(config, chat, world), reference_engine(config, options.model, world)
    ours, seconds = timed(evaluator, engine, options.model)
    plain = {"per_example": rows, "metrics": tofu_metrics(rows, config.evaluate.dialect)}
    result = {
        "seconds": round(seconds, 2),
        "plain_seconds": round(plain_seconds, 2),
        "speedup": round(plain_seconds / seconds, 2),
        **differences(ours, plain),
        "rows": {split: len(found) for split, found in rows.items()},
        "batch_size": options.batch_size,
        "pad": options.pad,
        "threads": options.threads,
    }
    print(json.dumps(result))
    stop()


if __name__ == "__main__":
    main()
