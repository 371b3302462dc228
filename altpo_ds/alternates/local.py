"""Samples with the run's own engine, on all ranks."""

import contextlib
from collections.abc import Collection, Iterator, Sequence

import torch

from altpo_ds.alternates.backend import Answered, Keep, load_chat
from altpo_ds.alternates.prompts import Rendered, prompt_ids
from altpo_ds.alternates.question import Request, sample
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.trees import Tree
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.decoding import Decoder, Sampling
from altpo_ds.engine.distributed import World, gather_objects, together
from altpo_ds.engine.generation import by_length, decode, generator
from altpo_ds.engine.scorer import SequenceScorer
from altpo_ds.engine.scoring import Forward, score_trees

BATCH_TOKENS = 8192  # of a rank in one pass that scores
DIGITS = "123456789"


class LocalSampler:
    """A backend on an open decoder, and on the forward pass of the scorer whose model it decodes with."""

    def __init__(
        self,
        config: RunConfig,
        chat: ChatTokenizer,
        decoder: Decoder,
        scorer: SequenceScorer,
        forward: Forward,
        world: World,
    ) -> None:
        self.settings, self.chat, self.world = config.alternates, chat, world
        self.decoder, self.scorer, self.forward = decoder, scorer, forward

    def sample(self, requests: Sequence[Request], done: Collection[int], keep: Keep) -> None:
        with together():
            prompts = [self._ids(request.prompt) for request in requests]
        pending = [
            batch for batch in by_length(prompts, self.settings.batch_size) if requests[batch[0]].number not in done
        ]
        self.scorer.use_own_attention()
        # Under ZeRO-3 a forward pass is a collective: ranks with fewer batches repeat a dummy.
        rounds = max(gather_objects(len(pending))) if self.decoder.in_step else len(pending)
        for number in range(rounds):
            batch = [(requests[i], prompts[i]) for i in pending[number]] if number < len(pending) else []
            answered = self._sample([request for request, _ in batch], [prompt for _, prompt in batch])
            if batch:
                keep(answered)

    def _sample(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Answered:
        settings = self.settings
        stop = requests[0].prompt.stop if requests else ()
        sampling = Sampling(settings.max_new_tokens, None, settings.temperature, settings.top_p, stop=stop)
        drawn = self.decoder(prompts, sampling, [[seed for seed in r.seeds if seed is not None] for r in requests])
        limit, tokenizer = settings.max_new_tokens, self.chat.tokenizer
        return [
            (request, [sample(decode(tokenizer, ids), len(ids), self._ended(ids, limit), stop) for ids in responses])
            for request, responses in zip(requests, drawn, strict=False)
        ]

    def _ended(self, ids: Sequence[int], limit: int) -> bool:
        return len(ids) < limit or ids[-1] in self.decoder.ends

    def _ids(self, prompt: Rendered) -> list[int]:
        ids = prompt_ids(prompt, self.chat)
        longest = getattr(self.decoder.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(ids) + self.settings.max_new_tokens > longest:
            start = " ".join(prompt.text.split())[:60]
            raise UserError(
                f"a prompt of {len(ids)} tokens ('{start}...') and alternates.max_new_tokens = "
                f"{self.settings.max_new_tokens} exceed the model's {longest} positions; shorten the row or the limit"
            )
        return ids

    def rate(self, prompts: Sequence[Rendered]) -> list[float]:
        """The mean digit under the model's distribution over the nine: finer than the one it would write."""
        tokenizer = self.chat.tokenizer
        digits = tuple((tokenizer.encode(digit, add_special_tokens=False)[-1],) for digit in DIGITS)
        trees = [Tree(tuple(prompt_ids(prompt, self.chat)), digits) for prompt in prompts]
        scores = torch.tensor(score_trees(self.forward, trees, BATCH_TOKENS, self.world)).reshape(-1, len(DIGITS))
        return (torch.softmax(scores.double(), -1) @ torch.arange(1.0, 10.0, dtype=torch.float64)).tolist()

    def log_probs(self, answers: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        trees = [
            Tree(tuple(self.chat.prompt(question)), tuple(tuple(self.chat.response(question, text)) for text in texts))
            for question, texts in answers
        ]
        answered = [tree for tree in trees if tree.responses]
        sums = iter(score_trees(self.forward, answered, BATCH_TOKENS, self.world))
        return [
            [total / len(response) for total, response in zip(next(sums), tree.responses, strict=True)]
            if tree.responses
            else []
            for tree in trees
        ]


@contextlib.contextmanager
def local_backend(config: RunConfig, world: World) -> Iterator[LocalSampler]:
    """The frozen model of the run, in an engine of its own."""
    with together():
        chat = load_chat(config)
    engine = reference_engine(config, config.model.path, world)
    with generator(engine.scorer, chat.tokenizer, world) as decoder:
        scorer, forward = engine.scorer, engine.forward
        if decoder.model is not engine.scorer.model:  # a whole copy scores without communication, too
            scorer = forward = SequenceScorer(decoder.model, config.model.attention).eval()
        yield LocalSampler(config, chat, decoder, scorer, forward, world)
