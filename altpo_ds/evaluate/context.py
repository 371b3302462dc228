"""What the suites of one evaluation share: each row's forward pass and generation happen once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import EvaluateConfig
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.trees import Tree
from altpo_ds.engine.distributed import World, together
from altpo_ds.engine.generation import Sampling, decode, generate
from altpo_ds.engine.gradients import gradient_norms
from altpo_ds.engine.scoring import TokenScores, score_tokens, score_trees, shared_out
from altpo_ds.engine.zero import PolicyEngine, ReferenceEngine
from altpo_ds.evaluate.inputs import HOLDOUT, Example
from altpo_ds.evaluate.privacy_metrics import memorization
from altpo_ds.evaluate.runs import Evaluation
from altpo_ds.evaluate.served import Served

DISTRIBUTION_BYTES = 2**29  # of a rank's whole distributions in one pass


@dataclass
class Context:
    """One model under evaluation, on all ranks: they call each method together, with the same arguments."""

    config: RunConfig
    chat: ChatTokenizer
    world: World
    engine: PolicyEngine | ReferenceEngine
    model: str  # where the model under evaluation lies; in training, what to call it
    examples: Sequence[Example]
    reference: Evaluation | None  # the retain model's
    retain_engine: Callable[[], ReferenceEngine]  # the retain model itself, evaluate.retain_model
    served: Served | None = None  # what answers in place of the engine

    @property
    def settings(self) -> EvaluateConfig:
        return self.config.evaluate

    @cached_property
    def likelihoods(self) -> dict[str, list[dict[str, Any]]]:
        """By split, for each row: question, answer, mean NLLs of answer, paraphrase and perturbed answers, and,
        for the suite `privacy`, what its attacks are made of.
        """
        trees = [example.tree for example in self.examples]
        if "privacy" not in self.settings.suite:
            rows = [_likelihoods(*pair) for pair in zip(self.examples, self.score(trees), strict=True)]
        else:
            found = self.score_tokens(trees)
            rows = [
                _likelihoods(example, sums) | memorization(tokens, example.row.answer, self.settings.dialect)
                for example, (sums, tokens) in zip(self.examples, found, strict=True)
            ]
        return by_split(self.examples, rows)

    @cached_property
    def generations(self) -> dict[str, list[str]]:
        """By split, the greedy answer to each question; the holdout rows are only scored."""
        asked = [example for example in self.examples if example.split != HOLDOUT]
        responses = self.generate([example.tree.prompt for example in asked], self.sampling())
        return by_split(asked, [self.text(texts[0]) for texts in responses])

    def sampling(self, temperature: float = 0.0, samples: int = 1) -> Sampling:
        """Within the dialect's limit, which counts the answer alone or the prompt too."""
        limit = self.settings.max_length
        if self.settings.dialect == "openunlearning":
            return Sampling(max_new_tokens=limit, temperature=temperature, samples=samples)
        return Sampling(max_length=limit, temperature=temperature, samples=samples)

    def text(self, response: Sequence[int]) -> str:
        return decode(self.chat.tokenizer, response)

    def score(self, trees: Sequence[Tree], engine: PolicyEngine | ReferenceEngine | None = None) -> list[list[float]]:
        """Summed log-probabilities of each tree's responses, under another engine where one is given."""
        forward = (engine or self.engine).forward
        return shared_out(
            trees, _tokens, lambda mine: score_trees(forward, mine, self.settings.batch_tokens, self.world), self.world
        )

    def score_tokens(self, trees: Sequence[Tree]) -> list[tuple[list[float], TokenScores]]:
        """As `score`, and each tree's first response token by token."""
        vocabulary = self.engine.scorer.model.config.get_text_config().vocab_size
        tokens = min(self.settings.batch_tokens, DISTRIBUTION_BYTES // (4 * vocabulary))
        return shared_out(
            trees, _tokens, lambda mine: score_tokens(self.engine.forward, mine, tokens, self.world), self.world
        )

    def gradient_norms(self, trees: Sequence[Tree]) -> list[float] | None:
        """Of each tree's first response; None where the model has to stay sharded."""
        found = shared_out(
            trees,
            _tokens,
            lambda mine: gradient_norms(self.engine.scorer, mine, self.world) or [None] * len(mine),
            self.world,
        )
        return None if None in found else [norm for norm in found if norm is not None]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]] | None = None,
        engine: PolicyEngine | ReferenceEngine | None = None,
    ) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt, one for each of its seeds; greedy ones need none."""
        scorer = (engine or self.engine).scorer
        self._check_room(prompts, sampling)
        batch_size = max(1, self.settings.batch_tokens // self.settings.max_length // sampling.samples)
        pairs = list(zip(prompts, seeds or [[0] * sampling.samples] * len(prompts), strict=True))

        def work(mine: list[tuple[Sequence[int], Sequence[int]]]) -> list[list[list[int]]]:
            own, own_seeds = [prompt for prompt, _ in mine], [seed for _, seed in mine]
            if self.served is not None and engine is None:
                with together():
                    return self.served.generate(own, sampling, own_seeds)
            return generate(scorer, self.chat.tokenizer, own, sampling, self.world, batch_size, own_seeds)

        return shared_out(pairs, lambda pair: len(pair[0]), work, self.world)

    def _check_room(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        """UserError where a prompt and its answer exceed the model's positions, beyond which it knows no order."""
        longest = getattr(self.engine.scorer.model.config.get_text_config(), "max_position_embeddings", None)
        for prompt in prompts:
            if longest is not None and len(prompt) + sampling.limit(prompt) > longest:
                start = " ".join(self.text(prompt[:40]).split())[:60]
                raise UserError(
                    f"a prompt of {len(prompt)} tokens ('{start}...') and {sampling.limit(prompt)} more exceed the "
                    f"model's {longest} positions: shorten the row, its few-shot examples, or the limit of new tokens"
                )


def by_split(examples: Sequence[Example], values: Sequence[Any]) -> dict[str, list[Any]]:
    """One value per example, by split."""
    splits: dict[str, list[Any]] = {}
    for example, value in zip(examples, values, strict=True):
        splits.setdefault(example.split, []).append(value)
    return splits


def _tokens(tree: Tree) -> int:
    return tree.unique_tokens


def _likelihoods(example: Example, sums: Sequence[float]) -> dict[str, Any]:
    nlls = [-total / len(response) for total, response in zip(sums, example.tree.responses, strict=True)]
    return {
        "question": example.row.question,
        "answer": example.row.answer,
        "answer_nll": nlls[0],
        "paraphrased_nll": nlls[1] if example.paraphrased else nlls[0],
        "perturbed_nll": nlls[1 + example.paraphrased :],
    }
