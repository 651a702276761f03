"""States on disk are the states in memory; heads on more pairs than a step takes; each pair is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefrep.labels import base, heads
from prefrep.labels.base import Work
from prefrep.labels.heads import log_odds, train
from prefrep.labels.states import Spooled, States, StatesFile, digest
from prefrep.nn.heads import BTHead
from prefrep.nn.losses import LogisticLoss
from prefrep.records import Comparison
from tests.labels.synthetic import pair


def _states(pairs: int, seed: int = 0) -> tuple[States, Spooled]:
    """The same states in memory, and on disk behind those of other pairs, in another order."""
    generator = torch.Generator().manual_seed(seed)
    found = States(torch.randn(pairs, 2, 5, generator=generator), torch.randn(pairs, 5, generator=generator))
    file, order = StatesFile(), np.random.default_rng(seed).permutation(pairs)
    file.extend(States(torch.zeros(3, 2, 5), torch.zeros(3, 5)))
    for part in np.array_split(order, 4):
        file.extend(found.at(part))
    return found, Spooled(file, 3 + np.argsort(order))


def _trained(states: States | Spooled, steps: int = 12) -> Any:
    labels = torch.arange(states.pairs) % 3 / 2
    return train(states, labels, BTHead, LogisticLoss, steps, 0.05, seed=1, weight=labels + 1)


def test_disk_and_memory() -> None:
    """All and some of them, their digests, heads trained on them, and log-odds, to the last bit."""
    memory, disk = _states(40)
    assert len(disk.file) == 43 and disk.pairs == memory.pairs == 40
    for some in (range(40), [7, 3, 3]):
        one, other = memory.at(some), disk.at(some).loaded()
        assert torch.equal(one.ends, other.ends) and torch.equal(one.prompts, other.prompts)
    assert digest(memory) == digest(disk) != digest(disk.at(range(39)))
    assert torch.equal(log_odds(_trained(memory), memory), log_odds(_trained(disk), disk))


def test_more_pairs_than_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch takes all pairs but those that fill no step, with their labels, and the head comes near that of full batches."""
    memory, disk = _states(43)
    labels = (memory.ends[:, 0, 0] > memory.ends[:, 1, 0]).float()

    def head(states: States | Spooled) -> Any:
        return train(states, labels, BTHead, LogisticLoss, 60, 0.05, seed=1)

    whole = log_odds(head(memory), memory)
    monkeypatch.setattr(heads, "STEP", 10)
    taken: list[torch.Tensor] = []
    batch = States.batch

    def noted(self: States, probability: torch.Tensor, *rest: Any) -> Any:
        taken.append(self.ends)
        assert torch.equal(probability, (self.ends[:, 0, 0] > self.ends[:, 1, 0]).float())
        return batch(self, probability, *rest)

    monkeypatch.setattr(States, "batch", noted)
    model = head(disk)
    monkeypatch.setattr(States, "batch", batch)
    assert len(taken) == 60 and all(len(each) == 10 for each in taken)
    every = {tuple(row.tolist()) for row in memory.ends.flatten(1)}
    left = []
    for epoch in range(15):
        seen = [tuple(row.tolist()) for row in torch.cat(taken[4 * epoch : 4 * epoch + 4]).flatten(1)]
        assert len(seen) == len(set(seen)) == 40 and set(seen) < every
        left.append(every - set(seen))
    assert len(set().union(*left)) > 9, "epochs leave out others"
    found = log_odds(model, disk)
    assert torch.equal(found, log_odds(head(memory), memory))
    assert float(np.corrcoef(found, whole)[0, 1]) > 0.9


def test_each_pair_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for again, in another order or beside others: labels do not matter, texts do."""
    asked: list[str] = []

    def read(backbone: object, layout: str, pairs: Iterator[Comparison]) -> Iterator[States]:
        for each in pairs:
            asked.append(each.chosen[0].content)
            value = float(each.chosen[0].content)
            yield States(torch.full((1, 2, 4), value), torch.full((1, 4), value))

    monkeypatch.setattr(base, "read", read)
    work = Work("bundled:tiny-llama", tmp_path)

    def values(pairs: Sequence[Comparison]) -> list[float]:
        return [float(each) for each in work.states(pairs).loaded().prompts[:, 0]]

    pairs = [pair("p", str(i), "b").comparison for i in range(5)]
    assert values([pairs[1], pairs[0], pairs[1]]) == [1, 0, 1]
    assert values([pairs[3], pair("p", "1", "b", probability=0.0).comparison, pairs[2], pairs[3]]) == [3, 1, 2, 3]
    assert asked == ["1", "0", "3", "2"]


def test_a_reading_that_failed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong, and wherever: the same pairs are read when they are asked for again."""

    def broken(*_: Any) -> Iterator[States]:
        yield States(torch.zeros(1, 2, 4), torch.zeros(1, 4))
        raise OSError("a cable")

    def read(backbone: object, layout: str, pairs: Sequence[Comparison]) -> Iterator[States]:
        yield States(torch.ones(len(pairs), 2, 4), torch.ones(len(pairs), 4))

    work, pairs = Work("bundled:tiny-llama", tmp_path), [pair("p", str(i), "b").comparison for i in range(3)]
    for place in ("require", "read"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="a cable"):
            patch.setattr(base, place, broken if place == "read" else _raise)
            work.states(pairs)
    monkeypatch.setattr(base, "read", read)
    assert torch.equal(work.states(pairs).loaded().prompts, torch.ones(3, 4))


def _raise(*_: Any) -> None:
    raise OSError("a cable")
