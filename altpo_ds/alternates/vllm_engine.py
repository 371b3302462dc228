"""Samples with vLLM in this process: the extra `altpo_ds[vllm]`."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from altpo_ds.alternates.backend import Keep, load_chat
from altpo_ds.alternates.prompts import Rendered, prompt_ids
from altpo_ds.alternates.question import Request, Sample, sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.engine.distributed import World


class VllmBackend:
    """One vLLM engine with prefix caching: the samples of a question share its prompt."""

    def __init__(self, config: RunConfig, world: World, section: str = "alternates") -> None:
        if world.size > 1:
            raise UserError(
                f"{section}.backend = vllm: runs in one process and shares a model over GPUs by itself; start it "
                f"without torchrun and set {section}.vllm.tensor_parallel_size"
            )
        try:
            from vllm import LLM  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"{section}.backend = vllm: not installed; pip install 'altpo_ds[vllm]'") from error
        self.settings, self.chat = config.alternates, load_chat(config)
        options = {"dtype": config.model.dtype, "enable_prefix_caching": True, "seed": config.seed}
        self._llm: Any = LLM(model=config.model.path, **(options | config.alternates.vllm))

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        open_requests = [request for request in requests if request.number not in done]
        drawn = iter(self._draw([(r.prompt, seed) for r in open_requests for seed in r.seeds]))
        keep([(request, [next(drawn) for _ in request.seeds]) for request in open_requests])

    def _draw(self, prompts: Sequence[tuple[Rendered, int | None]]) -> list[Sample]:
        """One sample for each prompt and seed; without a seed the most likely answer, greedily."""
        from vllm import SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

        settings = self.settings
        inputs, options = [], []
        for prompt, seed in prompts:
            inputs.append(TokensPrompt(prompt_token_ids=prompt_ids(prompt, self.chat)))
            chosen = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
            chosen = chosen if seed is not None else {"temperature": 0.0}
            options.append(SamplingParams(max_tokens=settings.max_new_tokens, stop=list(prompt.stop), **chosen))
        outputs = [result.outputs[0] for result in self._llm.generate(inputs, options, use_tqdm=False)]
        return [
            sample(output.text, len(output.token_ids), output.finish_reason != "length", prompt.stop)
            for output, (prompt, _) in zip(outputs, prompts, strict=True)
        ]

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        """The first digit of the model's answer."""
        found = (re.search(r"[1-9]", answer.text) for answer in self._draw([(prompt, None) for prompt in prompts]))
        return [float(digit.group()) if digit else 0.0 for digit in found]

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Scores come with `--report-only`, from the run's own engine."""
