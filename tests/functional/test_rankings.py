"""Rankings: closed forms, the lottery's defining property, Kendall's tau against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from prefrep.functional import rankings
from prefrep.functional.rankings import RULES, kendall_tau, maximal_lottery, winners

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_all_rules_agree_on_a_transitive_table(size: int) -> None:
    r = RNG.permutation(size).astype(float)
    margins = rankings.margins(np.subtract.outer(r, r))
    for name, rule in RULES.items():
        scores = rule(margins)
        assert winners(scores) == {int(r.argmax())}, name
        if name in ("copeland", "borda"):
            assert kendall_tau(scores, r) == pytest.approx(1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 0.5, 0.9)])
def test_weighted_rock_paper_scissors(weights: tuple[float, float, float]) -> None:
    """a beats b by x, b beats c by y, c beats a by z: the lottery is (y, z, x) / (x + y + z); p m = 0 there."""
    x, y, z = weights
    margins = np.array([[0, x, -z], [-x, 0, y], [z, -y, 0]])
    np.testing.assert_allclose(maximal_lottery(margins), np.array([y, z, x]) / (x + y + z), atol=1e-9)
    np.testing.assert_allclose(rankings.copeland(margins), 0)
    np.testing.assert_allclose(rankings.borda(margins), [(x - z) / 2, (y - x) / 2, (z - y) / 2])
    np.testing.assert_allclose(rankings.maximin(margins), [-z, -x, -y])


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_nothing_is_preferred_to_the_lottery(size: int) -> None:
    for _ in range(5):
        noise = RNG.uniform(-1, 1, (size, size))
        margins = (noise - noise.T) / 2
        p = maximal_lottery(margins)
        assert p.min() >= 0 and p.sum() == pytest.approx(1) and (p @ margins).min() >= -1e-8


def test_a_winner_above_a_cycle_takes_the_lottery() -> None:
    margins = np.array([[0, 0.1, 0.1, 0.1], [-0.1, 0, 1, -1], [-0.1, -1, 0, 1], [-0.1, 1, -1, 0]])
    np.testing.assert_allclose(maximal_lottery(margins), [1, 0, 0, 0], atol=1e-9)
    assert rankings.maximin(margins).argmax() == 0


def test_kendall_tau_is_tau_b() -> None:
    for _ in range(20):
        a, b = RNG.integers(0, 4, 7).astype(float), RNG.integers(0, 4, 7).astype(float)
        assert kendall_tau(a, b) == pytest.approx(float(kendalltau(a, b).statistic))
    assert np.isnan(kendall_tau(np.ones(3), np.arange(3.0)))


def test_margins_are_differences_of_probabilities() -> None:
    s = np.array([-3.0, 0.0, 0.7])
    p = 1 / (1 + np.exp(-s))
    np.testing.assert_allclose(rankings.margins(s), p - (1 - p))
    assert winners(np.array([0.5, 0.5 - 1e-12, 0.1])) == {0, 1}
