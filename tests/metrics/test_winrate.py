"""Win rates: what the length-controlled one must be where it can be said without fitting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from prefrep.metrics.winrate import (
    RIDGE,
    bootstrap_length_controlled,
    is_extreme_change,
    length_controlled_minimal,
    length_feature,
    win_probabilities,
)

GENERATOR = np.random.default_rng(0)


def test_probabilities_of_opposite_odds_sum_to_one() -> None:
    log_odds = np.array([-3.0, 0.0, 0.5, 800.0])
    assert np.allclose(win_probabilities(log_odds) + win_probabilities(-log_odds), 1.0)
    assert win_probabilities([np.log(3.0)]) == pytest.approx(0.75)


def test_length_feature_is_the_standardised_difference() -> None:
    ours, theirs = [10, 40, 20], [10, 10, 50]  # differences 0, 30, -30: their standard deviation is 30
    assert length_feature(ours, theirs) == pytest.approx([0.0, np.tanh(1.0), np.tanh(-1.0)])
    assert length_feature([9, 8], [4, 3]).tolist() == [0.0, 0.0]  # always five longer: nothing to compare with
    assert length_feature([9], [4]).tolist() == [0.0]


def test_equal_lengths_leave_the_raw_win_rate() -> None:
    p = GENERATOR.uniform(size=50)
    lengths = GENERATOR.integers(1, 500, size=50)
    assert length_controlled_minimal(p, length_feature(lengths, lengths)) == pytest.approx(p.mean())


def test_lengths_that_say_nothing_leave_the_raw_win_rate() -> None:
    """Each preference stands beside a long and beside a short opponent: w = 0 is the best fit, so theta = logit(mean)."""
    p = GENERATOR.uniform(size=40)
    assert length_controlled_minimal(np.tile(p, 2), np.repeat([0.6, -0.6], 40)) == pytest.approx(p.mean(), abs=1e-6)


@pytest.mark.parametrize("hard", [True, False])
def test_judge_that_only_likes_length(hard: bool) -> None:
    """Whoever is longer wins, and A is longer far more often: raw far above one half, length-controlled near it."""
    x = length_feature(GENERATOR.normal(700, 200, size=4000), GENERATOR.normal(500, 200, size=4000))
    p = (x > 0).astype(float) if hard else expit(3 * x)
    assert p.mean() > 0.68
    assert length_controlled_minimal(p, x) == pytest.approx(0.5, abs=0.02 if hard else 1e-3)


@pytest.mark.parametrize(("theta", "w"), [(0.8, 2.0), (-0.4, 1.0), (0.0, -3.0)])
def test_finds_the_quality_that_length_hides(theta: float, w: float) -> None:
    x = np.tanh(GENERATOR.normal(0.7, 1.0, size=3000))
    assert length_controlled_minimal(expit(theta + w * x), x) == pytest.approx(expit(theta), abs=1e-3)


def test_stationary_point_of_the_penalised_loss() -> None:
    """Two points, solved by hand: with x = +-1 the mean of theta + w and theta - w is theta, and w balances the ridge."""
    p = np.array([0.9, 0.4])
    found = length_controlled_minimal(p, np.array([1.0, -1.0]))
    w = (logit(0.9) - logit(0.4)) / 2
    for _ in range(200):  # fixed point of: residuals r and -r with 2 r = RIDGE w
        r = RIDGE * w / 2
        w = (logit(0.9 - r) - logit(0.4 + r)) / 2
    assert found == pytest.approx(expit((logit(0.9 - r) + logit(0.4 + r)) / 2), abs=1e-8)


def test_swapping_the_models_gives_the_complement() -> None:
    p, x = GENERATOR.uniform(size=30), GENERATOR.uniform(-1, 1, size=30)
    assert length_controlled_minimal(1 - p, -x) == pytest.approx(1 - length_controlled_minimal(p, x), abs=1e-8)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_all_won_or_lost(outcome: float) -> None:
    assert length_controlled_minimal([outcome] * 5, [0.1, 0.2, -0.3, 0.0, 0.9]) == outcome


def test_constant_preferences_are_themselves() -> None:
    assert length_controlled_minimal([0.3] * 5, [0.1, 0.2, -0.3, 0.0, 0.9]) == pytest.approx(0.3, abs=1e-8)


@pytest.mark.parametrize("p", [[], [0.5, 1.2], [-0.1]])
def test_bad_preferences(p: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        length_controlled_minimal(p, [0.0] * len(p))


def test_bootstrap_without_lengths_is_that_of_the_mean() -> None:
    """The standard deviation of resampled means is that of the sample over sqrt(n)."""
    p = GENERATOR.uniform(size=200)
    draws = bootstrap_length_controlled(p, np.zeros(200), 2000, np.random.default_rng(1))
    assert draws.mean() == pytest.approx(p.mean(), abs=0.003)
    assert draws.std() == pytest.approx(p.std() / np.sqrt(200), rel=0.1)


def test_bootstrap_covers_the_truth_and_repeats() -> None:
    x = np.tanh(GENERATOR.normal(0.5, 1.0, size=150))
    won = (GENERATOR.uniform(size=150) < expit(0.7 + 1.5 * x)).astype(float)
    draws = bootstrap_length_controlled(won, x, 200, np.random.default_rng(2))
    assert np.quantile(draws, 0.005) < expit(0.7) < np.quantile(draws, 0.995)
    assert np.array_equal(draws, bootstrap_length_controlled(won, x, 200, np.random.default_rng(2)))


@pytest.mark.parametrize(
    ("raw", "controlled", "extreme"),
    [
        (0.5, 0.62, False),  # 0.125 is a quarter of the way
        (0.5, 0.63, True),
        (0.5, 0.37, True),
        (0.5, 0.38, False),
        (0.2, 0.11, False),  # less than 0.1, though more than a quarter
        (0.2, 0.09, True),
        (0.8, 0.89, False),
        (0.8, 0.91, True),
        (0.46, 0.688, True),  # a random judge of answers of very unequal length
    ],
)
def test_alpacaeval_s_alarm(raw: float, controlled: float, extreme: bool) -> None:
    """Its own rule in per cent: below min(raw - raw / 4, raw - 10), or above max(raw + (100 - raw) / 4, raw + 10)."""
    a, b = 100 * raw, 100 * controlled
    assert (b < min(a - a / 4, a - 10) or b > max(a + (100 - a) / 4, a + 10)) == extreme
    assert is_extreme_change(raw, controlled) == extreme and is_extreme_change(1 - raw, 1 - controlled) == extreme
