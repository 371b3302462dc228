"""Checks that need an engine, on one or several ranks: python -m tests.alternates.ranks MODEL FOLDER."""

import sys
from pathlib import Path
from typing import Any

import torch

from altpo_ds.alternates.refresh import Refresher
from altpo_ds.config.batch import Batch
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import QARow
from altpo_ds.data.sources import Place
from altpo_ds.data.stream import Item
from altpo_ds.data.trees import Tree, pack
from altpo_ds.engine import generation
from altpo_ds.engine.average import MovingAverage
from altpo_ds.engine.build import policy_engine, reference_engine
from altpo_ds.engine.decoding import Sampling
from altpo_ds.engine.distributed import World, gather_objects, start
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine


def check_generation_in_step(config: RunConfig, chat: ChatTokenizer, world: World) -> None:
    """Under ZeRO-3, with other numbers of prompts on each rank, as with a whole copy."""
    scorer = reference_engine(config, config.model.path, world).scorer
    prompts = [chat.prompt(f"Where was author {i} born?" + " Say it." * (i % 3)) for i in range(7)]
    mine = prompts if world.is_main else prompts[2:4]
    sampling = Sampling(max_new_tokens=12, temperature=1.0, samples=2)
    results = []
    for fits in (True, False):
        generation.fits = lambda *_, fits=fits: fits
        torch.manual_seed(world.rank)
        results.append(generation.generate(scorer, chat.tokenizer, mine, sampling, world, 3))
    assert results[0] == results[1]
    assert [len(of_prompt) for of_prompt in results[0]] == [2] * len(mine)


def train_step(policy: PolicyEngine) -> float:
    packed = pack([Tree((5, 6, 7), ((8, 9, 10), (11, 12)))])
    log_probs, _ = policy.forward(packed)
    policy.backward(-log_probs.sum() / policy.world.size)
    policy.step()
    return float(log_probs.detach().sum())


def whole(policy: PolicyEngine, world: World) -> list[torch.Tensor]:
    copy = generation.whole_copy(policy.scorer.model, world.device)
    return [parameter.detach().clone() for parameter in copy.parameters()]


def score(policy: PolicyEngine) -> torch.Tensor:
    with torch.no_grad():
        return policy.forward(pack([Tree((5, 6, 7), ((8, 9, 10),))]))[0]


def check_average(policy: PolicyEngine, world: World) -> None:
    average = MovingAverage(policy.scorer, 0.75)
    expected = whole(policy, world)
    for _ in range(3):
        train_step(policy)
        average.update()
        now = whole(policy, world)
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, now, strict=True)]
    before = score(policy)
    with average.applied():
        inside = whole(policy, world)
        assert not torch.allclose(score(policy), before)
    for parameter, wanted in zip(inside, expected, strict=True):
        torch.testing.assert_close(parameter, wanted, rtol=1e-5, atol=1e-7)
    assert torch.equal(score(policy), before)
    for parameter, wanted in zip(whole(policy, world), now, strict=True):
        assert torch.equal(parameter, wanted)
    train_step(policy)  # and training goes on


def item(number: int, alternates: tuple[str, ...]) -> Item:
    place = Place("x", number)
    return Item(QARow(place, f"Where was author number {number} born?", "In Zell, it is said."), alternates, ())


def check_refresh(config: RunConfig, chat: ChatTokenizer, policy: PolicyEngine, world: World, folder: Path) -> None:
    refresher = Refresher(config, chat, policy, world)
    old = ("first", "second")
    mine = item(world.rank, old)
    assert refresher.replace(mine) == mine
    refresher.after_step(1)
    assert len(refresher.buffer) == 0
    refresher.after_step(2)
    buffers = gather_objects(refresher.buffer.state_dict())
    assert all(buffer == buffers[0] for buffer in buffers)
    for rank in range(world.size):  # every rank knows what each one sampled
        fresh = refresher.buffer.find(f"Where was author number {rank} born?")
        assert 1 <= len(fresh) <= 3
        replaced = refresher.replace(item(rank, old)).alternates
        assert replaced == tuple([*fresh, *old][:2])
    refresher.save(folder, torch.save)
    other = Refresher(config, chat, policy, world)
    other.load(folder, same_layout=True)
    assert other.buffer.state_dict() == refresher.buffer.state_dict()
    assert other._seen == refresher._seen != {}
    assert other.average is not None
    assert refresher.average is not None
    for one, two in zip(other.average._average, refresher.average._average, strict=True):
        assert torch.equal(one, two)


def main(model: str, folder: Path) -> None:
    alternates: dict[str, Any] = {
        "count": 3,
        "attempts": 30,
        "max_new_tokens": 100,
        "min_rouge": 0,
        "refresh_every": 2,
        "refresh_average": 0.5,
    }
    train = {"global_batch_size": 2, "lr": 0.01, "warmup": 0}
    values = {"run_dir": str(folder), "model": {"path": model}, "alternates": alternates, "train": train}
    config = RunConfig.model_validate(values)
    world = start(60)
    chat = ChatTokenizer(load_tokenizer(model))
    check_generation_in_step(config, chat, world)
    generation.fits = lambda *_: True
    policy = policy_engine(config, Batch(2 // world.size, 1, world.size, 2), 10, world)
    check_average(policy, world)
    check_refresh(config, chat, policy, world, folder)
    print("all checks passed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
