"""Fresh alternates while training: sampled from the policy, or its moving average, into a bounded replay buffer."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from altpo_ds.alternates.local import LocalSampler
from altpo_ds.alternates.prompts import load_prompt
from altpo_ds.alternates.question import Question
from altpo_ds.alternates.rounds import draw_once, sample_rounds
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.stream import Item, draw_seed
from altpo_ds.engine import trust
from altpo_ds.engine.average import MovingAverage
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.engine.generation import generator
from altpo_ds.engine.parts import Put
from altpo_ds.engine.zero import PolicyEngine


class ReplayBuffer:
    """The newest alternates of all questions, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: dict[tuple[str, str], None] = {}  # (question, alternate), oldest first

    def __len__(self) -> int:
        return len(self._items)

    def add(self, question: str, alternates: Sequence[str]) -> None:
        """Puts in new ones, an old one again as the newest, and lets the oldest go."""
        for text in alternates:
            self._items.pop((question, text), None)
            self._items[question, text] = None
        for item in list(self._items)[: -self.capacity]:
            del self._items[item]

    def find(self, question: str) -> list[str]:
        """Alternates of a question, the newest first."""
        return [text for asked, text in reversed(self._items) if asked == question]

    def state_dict(self) -> dict[str, Any]:
        return {"items": [list(item) for item in self._items]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._items = dict.fromkeys(map(tuple, state["items"]))


class Refresher:
    """What the training loop calls: `replace` for each item, `after_step` after each optimizer step.

    The buffer is the same on every rank; each samples for the questions that it trained on since the last time.
    """

    def __init__(self, config: RunConfig, chat: ChatTokenizer, policy: PolicyEngine, world: World) -> None:
        settings = config.alternates
        self.config, self.settings, self.chat, self.policy, self.world = config, settings, chat, policy, world
        self.prompt = load_prompt(settings.prompt)
        self.buffer = ReplayBuffer(settings.buffer_size)
        decay = settings.refresh_average
        self.average = MovingAverage(policy.scorer, decay) if decay else None
        self._seen: dict[str, str] = {}  # question to answer

    def replace(self, item: Item) -> Item:
        """An item with fresh alternates first, its own where there are too few."""
        if item.forget is None or item.forget.question is None:
            return item
        question = item.forget.question
        self._seen[question] = item.forget.answer
        both = dict.fromkeys([*self.buffer.find(question), *item.alternates])
        return replace(item, alternates=tuple(both)[: len(item.alternates)])

    def after_step(self, step: int) -> None:
        """Moves the average on, and after every `refresh_every` steps samples. All ranks call it together."""
        if self.average is not None:
            self.average.update()
        if step % self.settings.refresh_every == 0:
            for fresh in gather_objects(self._sample(step)):
                for question, alternates in fresh:
                    self.buffer.add(question, alternates)
            self._seen = {}

    def _sample(self, step: int) -> list[tuple[str, list[str]]]:
        # Numbered by their text, so that a question's samples do not depend on the rank that draws them.
        questions = [Question(draw_seed(0, question), question, answer) for question, answer in self._seen.items()]
        scorer, seed = self.policy.scorer, draw_seed(self.config.seed, "refresh", step)
        with contextlib.ExitStack() as stack:
            if self.average is not None:
                stack.enter_context(self.average.applied())
            training = self.policy.engine.training
            stack.callback(self.policy.engine.train, training)
            self.policy.engine.eval()
            decoder = stack.enter_context(generator(scorer, self.chat.tokenizer, self.world))
            sampler = LocalSampler(self.config, self.chat, decoder, scorer, self.policy.forward, self.world)
            sample_rounds(questions, self.prompt, self.settings, seed, sampler, draw_once(sampler))
        return [(question.question, question.alternates) for question in questions]

    def save(self, folder: Path, put: Put) -> None:
        """Into a checkpoint, each rank its own file."""
        average = self.average.state_dict() if self.average is not None else {}
        put(self.buffer.state_dict() | {"seen": self._seen} | average, self._file(folder))

    def load(self, folder: Path, same_layout: bool) -> None:
        """From a checkpoint; of one of another layout the ranks share out anew what all of them had."""
        if same_layout:
            state = trust.load(self._file(folder))
            self._seen = state["seen"]
            if self.average is not None:
                self.average.load_state_dict(state)
        else:
            states = [trust.load(file) for file in sorted(folder.glob("refresh-*.pt"))]
            state = states[0]
            seen = {question: answer for of_rank in states for question, answer in of_rank["seen"].items()}
            self._seen = dict(sorted(seen.items())[self.world.rank :: self.world.size])
            if self.average is not None:
                self.average.load_shards(states, self.world)
        self.buffer.load_state_dict(state)

    def _file(self, folder: Path) -> Path:
        return folder / f"refresh-{self.world.rank:05}.pt"  # in the order of the ranks
