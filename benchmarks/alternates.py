"""Tokens per second against one prompt at a time, and memory over a long file.

    python benchmarks/alternates.py --model DIR --forget FILE [--questions 20 --count 5 --batch-size 20]
    python benchmarks/alternates.py --memory-rows 100000

The first form samples the same prompts with the same settings twice: as the AltPO authors do, one prompt and one
sequence at a time with `generate`, and with the batches of `altpo-ds alternates`. The second one runs the whole
command over a file of that many rows, and over a hundredth of them, with a backend that returns fixed text.
Prints one JSON line.
"""

import argparse
import contextlib
import json
import resource
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

from altpo_ds.alternates.backend import Keep
from altpo_ds.alternates.local import local_backend
from altpo_ds.alternates.prompts import Rendered, load_prompt, prompt_ids
from altpo_ds.alternates.question import Question, Request, Sample
from altpo_ds.alternates.run import generate_alternates
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.engine.distributed import start, stop
from altpo_ds.engine.models import load_tokenizer, resolve_dtype


def requests(config: RunConfig, questions: int) -> list[Request]:
    """The first round of the first questions."""
    assert config.data.forget is not None
    prompt = load_prompt(config.alternates.prompt)
    rows = [row for _, row in islice(parsed(config.data.forget, parse_qa), questions) if not isinstance(row, Problem)]
    asked = [Question(number, str(row.question), row.answer) for number, row in enumerate(rows)]
    return [q.request(prompt.render(q.question, q.answer), config.alternates.count, config.seed) for q in asked]


def one_at_a_time(config: RunConfig, asked: Sequence[Request]) -> tuple[int, float]:
    """Tokens and seconds of the authors' way: for each repeat, for each prompt, one sequence."""
    chat = ChatTokenizer(load_tokenizer(config.model.path), config.data.system_prompt)
    dtype = resolve_dtype(config.model.dtype, torch.device("cpu"))
    model: Any = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=dtype).eval()
    end, settings = chat.tokenizer.eos_token_id, config.alternates
    begin, tokens = time.perf_counter(), 0
    for repeat in range(settings.count):
        for request in asked:
            ids = torch.tensor([prompt_ids(request.prompt, chat)])
            torch.manual_seed(request.seeds[repeat])
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=0,
                max_new_tokens=settings.max_new_tokens,
                num_return_sequences=1,
                stop_strings=list(request.prompt.stop),
                tokenizer=chat.tokenizer,
                eos_token_id=end,
                pad_token_id=end,
            )
            tokens += output.shape[1] - ids.shape[1]
    return tokens, time.perf_counter() - begin


def batched(config: RunConfig, asked: Sequence[Request]) -> tuple[int, float]:
    """Tokens and seconds of this framework's way."""
    world, tokens = start(config.engine.timeout), 0

    def keep(answered: list[tuple[Request, list[Sample]]]) -> None:
        nonlocal tokens
        tokens += sum(sample.tokens for _, samples in answered for sample in samples)

    with local_backend(config, world) as backend:
        begin = time.perf_counter()
        backend.sample(asked, (), keep)
        return tokens, time.perf_counter() - begin


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    values = {
        "run_dir": "unused",
        "model": {"path": arguments.model, "dtype": arguments.dtype},
        "data": {"forget": {"path": arguments.forget}},
        "alternates": {
            "count": arguments.count,
            "batch_size": arguments.batch_size,
            "max_new_tokens": arguments.max_new_tokens,
        },
    }
    config = RunConfig.model_validate(values)
    asked = requests(config, arguments.questions)
    tokens, seconds = batched(config, asked)
    authors_tokens, authors_seconds = one_at_a_time(config, asked)
    rate, authors_rate = tokens / seconds, authors_tokens / authors_seconds
    return {
        "questions": len(asked),
        "samples": len(asked) * arguments.count,
        "tokens": tokens,
        "tokens_per_s": round(rate, 1),
        "one_at_a_time_tokens": authors_tokens,
        "one_at_a_time_tokens_per_s": round(authors_rate, 1),
        "speedup": round(rate / authors_rate, 2),
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
    }


class FixedText:
    """A backend without a model; every alternate of a question differs in one word."""

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        for request in requests:
            if request.number not in done:
                numbers = range(request.first, request.first + len(request.seeds))
                texts = (f"The author was born in the town of Sample {number}, it is said." for number in numbers)
                keep([(request, [Sample(text, 14, True) for text in texts])])

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        return [5.0] * len(prompts)

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [[-1.0] * len(texts) for _, texts in answers]


@contextlib.contextmanager
def fixed_text(*_: Any) -> Iterator[FixedText]:
    yield FixedText()


def memory(rows: int) -> dict[str, Any]:
    """Peak memory of the process in MiB after a short file and after one of `rows` rows."""
    result: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder, patch("altpo_ds.alternates.run.open_backend", fixed_text):
        model = Path(folder, "model")
        model.mkdir()
        (model / "config.json").write_text("{}")
        for name, count in (("short", max(1, rows // 100)), ("long", rows)):
            file = Path(folder, f"{name}.jsonl")
            with file.open("w") as stream:
                for i in range(count):
                    row = {"question": f"Where was the author number {i} born?", "answer": f"In the town of Zell, {i}."}
                    stream.write(json.dumps(row) + "\n")
            values = {"run_dir": str(Path(folder, name)), "model": {"path": str(model)}}
            config = RunConfig.model_validate(values | {"data": {"forget": {"path": str(file)}}})
            begin = time.perf_counter()
            summary = generate_alternates(config)
            result[f"{name}_s"] = round(time.perf_counter() - begin, 1)
            result[f"{name}_alternates"] = summary.alternates
            result[f"{name}_peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--forget")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--memory-rows", type=int)
    arguments = parser.parse_args()
    if arguments.memory_rows is None and not (arguments.model and arguments.forget):
        parser.error("give --model and --forget, or --memory-rows")
    result = memory(arguments.memory_rows) if arguments.memory_rows else speed(arguments)
    stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
