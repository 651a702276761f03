"""Calibration: closed forms, symmetry under exchanged answers, and generated data whose truth is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit, logit

from prefrep.metrics import calibration
from prefrep.metrics.calibration import bootstrap, brier, calibration_error, equal_mass, fit_temperature, folded, log_loss
from prefrep.metrics.intervals import percentile_interval


def generated(n: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that are too large by a factor, and outcomes drawn with the odds that are true."""
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 1.5, n)
    return true * temperature, (generator.random(n) < expit(true)).astype(float)


def test_scores_by_hand() -> None:
    s = [math.log(3), 0.0, -math.log(3)]  # p = 3/4, 1/2, 1/4
    assert brier(s, [1, 1, 1]) == pytest.approx([1 / 16, 1 / 4, 9 / 16])
    assert log_loss(s, [1, 1, 1]) == pytest.approx([math.log(4 / 3), math.log(2), math.log(4)])
    assert brier(s, [0.75] * 3) == pytest.approx([0.75 / 16 + 0.25 * 9 / 16, 0.25, 0.75 * 9 / 16 + 0.25 / 16])
    assert log_loss([800.0, -800.0], [1, 1]) == pytest.approx([0, 800])  # no overflow where the model is sure


def test_expected_scores_are_smallest_at_the_truth() -> None:
    """A proper score: no other probability does better than the soft label itself."""
    y = 0.3
    others = logit(np.linspace(0.01, 0.99, 99))
    for score in (brier, log_loss):
        assert others[score(others, np.full(99, y)).argmin()] == pytest.approx(logit(y))


def test_exchanging_the_answers_changes_nothing() -> None:
    s, y = generated(500, 2.0)
    flip = np.where(np.arange(500) % 3 == 0, -1.0, 1.0)
    other = np.where(flip < 0, 1 - y, y)
    for measure in (brier, log_loss):
        assert measure(s * flip, other) == pytest.approx(measure(s, y))
    assert np.array_equal(folded(s * flip, other), folded(s, y))
    assert fit_temperature(s * flip, other)[0] == pytest.approx(fit_temperature(s, y)[0])


def test_folding_gives_the_error_of_both_orders() -> None:
    """The docstring's claim: over 2n points in mirrored bins of [0, 1], explicitly."""
    s, y = generated(400, 3.0)
    confidence, outcome = folded(s, y)
    edges = np.array([0.5, 0.6, 0.75, 0.9, 1.0])
    found = calibration_error(confidence, outcome, np.digitize(confidence, edges[1:-1]))
    p, q = np.concatenate([expit(s), expit(-s)]), np.concatenate([y, 1 - y])
    both = np.concatenate([1 - edges[::-1], edges[1:]])
    total = 0.0
    for low, high in pairwise(both):
        inside = (p >= low) & (p < high)
        total += abs((p[inside] - q[inside]).sum()) / len(p)
    assert found == pytest.approx(total)


def test_always_chosen_is_not_calibrated_by_convention() -> None:
    """Half of the verdicts at 90 % are wrong: the error is 0.4, whichever answers are called chosen."""
    s = np.array([math.log(9)] * 50 + [-math.log(9)] * 50)
    confidence, outcome = folded(s, np.ones(100))
    assert calibration_error(confidence, outcome, equal_mass(confidence, 10)) == pytest.approx(0.4)


def test_bins_are_of_like_size_and_keep_equal_values_together() -> None:
    assert np.bincount(equal_mass(np.random.default_rng(0).random(1000), 10)).tolist() == [100] * 10
    crowded = equal_mass([0.5] * 90 + [0.7, 0.8, 0.9] * 3 + [1.0], 10)
    assert len(set(crowded[:90])) == 1 and crowded.max() >= 1 and set(np.unique(crowded)) == set(range(crowded.max() + 1))
    assert equal_mass([3.0, 3.0], 5).tolist() == [0, 0] and len(equal_mass([], 5)) == 0


def test_a_calibrated_model_has_the_error_of_chance_only() -> None:
    errors, chance, covered = [], [], 0
    for seed in range(20):
        s, y = generated(1000, seed=seed)
        confidence, outcome = folded(s, y)
        bins = equal_mass(confidence, 10)
        spread = bootstrap(s, y, bins, 200, np.random.default_rng(seed))
        errors.append(calibration_error(confidence, outcome, bins))
        chance.append(spread.calibrated_mean)
        covered += errors[-1] <= spread.calibrated_p95
    assert np.mean(errors) == pytest.approx(np.mean(chance), rel=0.15)
    assert np.mean(chance) < 0.04 and covered >= 17
    s, y = generated(100_000)
    confidence, outcome = folded(s, y)
    assert calibration_error(confidence, outcome, equal_mass(confidence, 10)) < 0.006


def test_an_overconfident_model_is_seen() -> None:
    """With scores three times too large the error is E|sigmoid(3 t) - sigmoid(t)|, with t the true log-odds."""
    s, y = generated(20_000, 3.0)
    confidence, outcome = folded(s, y)
    bins = equal_mass(confidence, 10)
    expected = float((confidence - expit(np.abs(s) / 3)).mean())
    spread = bootstrap(s, y, bins, 200, np.random.default_rng(0))
    assert calibration_error(confidence, outcome, bins) == pytest.approx(expected, abs=0.01)
    assert spread.calibrated_p95 < 0.02
    assert spread.brier[0] < brier(s, y).mean() < spread.brier[1]
    assert spread.log_loss[0] < log_loss(s, y).mean() < spread.log_loss[1]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_is_found(temperature: float) -> None:
    s, y = generated(20_000, temperature)
    found, (low, high) = fit_temperature(s, y)
    assert low < temperature < high and high / low < 1.1
    losses = [log_loss(s / other, y).mean() for other in (found * 0.99, found, found * 1.01)]
    assert losses[1] < min(losses[0], losses[2])
    assert np.array_equal(np.sign(s / found), np.sign(s))  # no verdict changes


def test_soft_labels_give_it_exactly() -> None:
    """Expected outcomes sigmoid(s / T): the loss has its minimum at T without any noise."""
    s = np.random.default_rng(0).normal(0, 4, 200)
    assert fit_temperature(s, expit(s / 2.5))[0] == pytest.approx(2.5, rel=1e-9)


def test_temperature_is_proportional_to_the_scores() -> None:
    s, y = generated(300, 2.0)
    found, interval = fit_temperature(s, y)
    assert fit_temperature(s * 4, y) == (found * 4, (interval[0] * 4, interval[1] * 4))  # powers of two: to the last bit
    assert fit_temperature(s * 0.3, y)[0] == pytest.approx(found * 0.3, rel=1e-12)


def test_interval_of_the_temperature_covers() -> None:
    covered = 0
    for seed in range(200):
        low, high = fit_temperature(*generated(300, 2.0, seed))[1]
        covered += low < 2.0 < high
    assert 180 <= covered <= 199  # 190 expected, standard deviation 3


def test_copies_on_one_prompt_are_no_new_evidence() -> None:
    """Every comparison four times: as one prompt each they say what they said once; as independent ones, twice as sure."""
    s, y = generated(300, 2.0)
    found, (low, high) = fit_temperature(s, y)
    several, outcomes, prompts = np.repeat(s, 4), np.repeat(y, 4), np.repeat(np.arange(300), 4)
    assert fit_temperature(several, outcomes, prompts) == (pytest.approx(found), (pytest.approx(low), pytest.approx(high)))
    naive = fit_temperature(several, outcomes)[1]
    assert math.log(high / low) == pytest.approx(2 * math.log(naive[1] / naive[0]), rel=0.005)  # but for G / (G - 1)
    spread = bootstrap(several, outcomes, np.zeros(1200, np.int64), 2000, np.random.default_rng(0), prompts)
    for (low, high), values in ((spread.brier, brier(s, y)), (spread.log_loss, log_loss(s, y))):
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(300), rel=0.1)  # of a mean of 300, not of 1200
    with pytest.raises(ValueError, match="one group"):
        fit_temperature(s, y, np.zeros(300, np.int64))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_change_no_bit_of_the_bootstrap(n: int, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against sums over all values at once: results of the same seed must not depend on the size of blocks."""
    monkeypatch.setattr(calibration, "BLOCK", 16)
    s, y = generated(n, 2.0)
    groups = np.random.default_rng(1).permutation(np.arange(n) % (n // 3 + 1)) if grouped else np.arange(n)
    confidence, bins, generator = folded(s, y)[0], equal_mass(folded(s, y)[0], 4), np.random.default_rng(0)
    edges = np.unique(np.quantile(confidence, np.arange(1, 4) / 4))
    assert bins.tolist() == np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1].tolist()
    sums = np.stack([np.bincount(groups, column) for column in (brier(s, y), log_loss(s, y), None)], axis=1)
    scores, losses, errors = [], [], []
    for _ in range(20):
        score, loss, count = sums[generator.integers(0, len(sums), len(sums))].sum(0)
        scores.append(score / count)
        losses.append(loss / count)
        outcome = (generator.random(n) < confidence).astype(np.float64)
        errors.append(float(np.abs(np.bincount(bins, confidence - outcome)).sum() / n))
    found = bootstrap(s, y, bins, 20, np.random.default_rng(0), groups if grouped else None)
    assert (found.brier, found.log_loss) == (percentile_interval(np.array(scores)), percentile_interval(np.array(losses)))
    assert (found.calibrated_mean, found.calibrated_p95) == (np.mean(errors), np.quantile(errors, 0.95))


def test_interval_of_the_temperature_covers_where_prompts_are_shared() -> None:
    """All 15 pairs of six answers, which Gumbel noise orders: a Bradley-Terry model pair by pair, and far from independent."""
    i, j = np.triu_indices(6, 1)
    prompts, covered = np.repeat(np.arange(80), 15), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        quality = generator.standard_normal((80, 6))
        order = quality + generator.gumbel(size=(80, 6))
        s = 2.0 * (quality[:, i] - quality[:, j]).ravel()
        low, high = fit_temperature(s, (order[:, i] > order[:, j]).ravel(), prompts)[1]
        covered += low < 2.0 < high
    assert 180 <= covered <= 199  # 190 expected, standard deviation 3


@pytest.mark.parametrize(
    ("scores", "outcomes", "why"),
    [
        ([1.0, 2.0, -1.0], [1, 1, 0], "no verdict is wrong"),
        ([-1.0, -2.0, 0.5], [1, 1, 1], "against the labels"),
        ([0.0, 0.0], [1, 1], "every score is 0"),
        ([], [], "every score is 0"),
    ],
)
def test_where_no_temperature_is_best(scores: list[float], outcomes: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit_temperature(scores, outcomes)
