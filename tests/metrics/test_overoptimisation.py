"""Over-optimisation of synthetic policies, and repetition of texts."""

from __future__ import annotations

import numpy as np
import pytest

from prefrep.metrics.overoptimisation import overoptimised
from prefrep.metrics.repetition import repetition


def rates(means: list[float], n: int, seed: int) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    generator = np.random.default_rng(seed)
    return [generator.binomial(4, mean, n) / 4 for mean in means]


def test_a_gain_with_one_judge_and_a_loss_with_the_other() -> None:
    """The second judge's win rate peaks in round 1, from which the loss counts, not from round 0."""
    proxy, gold = rates([0.5, 0.6, 0.7, 0.9], 200, 0), rates([0.5, 0.75, 0.65, 0.4], 200, 1)
    found = overoptimised(proxy, gold)
    assert found is not None and found.since == 1
    for interval, values in ((found.gain, proxy), (found.loss, gold)):
        assert interval[0] < (values[3] - values[1]).mean() < interval[1]
    assert found.gain[0] > 0 > found.loss[1]


@pytest.mark.parametrize(
    ("proxy", "gold"),
    [
        ([0.5, 0.7, 0.9], [0.5, 0.6, 0.7]),  # both gain
        ([0.5, 0.7, 0.6], [0.5, 0.7, 0.6]),  # both lose
        ([0.5, 0.9, 0.9], [0.9, 0.5, 0.9]),  # recovered by now
    ],
)
def test_no_alarm_where_judges_agree(proxy: list[float], gold: list[float]) -> None:
    assert overoptimised(rates(proxy, 200, 0), rates(gold, 200, 1)) is None


def test_few_prompts_raise_no_alarm() -> None:
    """What 200 prompts show, four cannot."""
    assert overoptimised(rates([0.5, 0.6], 4, 2), rates([0.5, 0.4], 4, 3)) is None
    assert overoptimised(rates([0.0, 1.0], 1, 2), rates([1.0, 0.0], 1, 3)) is None


def test_false_alarms_are_rare() -> None:
    """Five equal policies and 60 prompts, 200 times. Both events at once are far rarer than 5 %."""
    alarms = sum(overoptimised(rates([0.5] * 5, 60, 2 * i), rates([0.5] * 5, 60, 2 * i + 1)) is not None for i in range(200))
    assert alarms <= 10


@pytest.mark.parametrize(
    ("text", "size", "share"),
    [("a a a a a", 1, 0.8), ("a b c d", 4, 0.0), ("a b c", 4, 0.0), ("", 4, 0.0), ("a b a b a b", 2, 0.6), ("one two one two", 2, 1 / 3)],
)
def test_repetition(text: str, size: int, share: float) -> None:
    assert repetition(text, size) == pytest.approx(share)
