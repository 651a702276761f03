"""Ratings against closed forms, finite differences, general optimisers and other libraries; errors and ranks against simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from prefrep.functional import ratings
from prefrep.functional.battle_votes import Votes, grouped
from prefrep.functional.next_pairs import next_pairs
from prefrep.functional.outcomes import expected_shares, shares, terms
from prefrep.functional.rating_errors import covariance, normal_draws, ranks, resampled
from prefrep.functional.ratings import Model, fit


def drawn(
    n: int = 3000, k: int = 6, judges: int = 1, seed: int = 0, order: float = 0.3, gamma: float = 1.0, style: float = 0.0, features: int = 0
) -> tuple[Votes, np.ndarray]:
    """Battles of known ratings; the second judge has sharpness gamma and the opposite order effect."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, k)
    truth -= truth.mean()
    left = rng.integers(0, k, n)
    right = (left + rng.integers(1, k, n)) % k
    judge, first = rng.integers(0, judges, n), rng.choice([1.0, -1.0], n)
    x = rng.standard_normal((n, features))
    sharp, lean = np.array([1.0, gamma])[judge], np.array([order, -order])[judge]
    eta = sharp * (truth[left] - truth[right] + style * x.sum(1)) + first * lean
    won = (rng.random(n) < expit(eta)).astype(np.float64)
    won[rng.random(n) < 0.15] = 0.5
    one = np.ones(n)
    return Votes(left, right, won, first, judge, one, one, np.full(n, -1), x), truth


@pytest.mark.parametrize("ties", ["half", "davidson", "rao-kupper"])
def test_likelihoods_sum_to_one_and_have_their_derivatives(ties: Any) -> None:
    rng = np.random.default_rng(0)
    eta, tie = rng.normal(0, 2, 50), rng.normal(-0.5, 1, 50)
    outcome = rng.choice([0.0, 0.5, 1.0, 0.3], 50)
    share, step = shares(outcome, ties), 1e-5
    found = terms(eta, tie, share, ties)
    probabilities = expected_shares(eta, tie, ties)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    if ties != "half":  # the likelihood is the probability of what happened
        np.testing.assert_allclose(found.nll, -(share * np.log(probabilities)).sum(1), atol=1e-10)

    def nll(de: float, dt: float) -> np.ndarray:
        return terms(eta + de, tie + dt, share, ties).nll

    np.testing.assert_allclose(found.g, (nll(step, 0) - nll(-step, 0)) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(found.g_tie, (nll(0, step) - nll(0, -step)) / (2 * step), atol=1e-6)
    step = 1e-3
    np.testing.assert_allclose(found.h, (nll(step, 0) - 2 * nll(0, 0) + nll(-step, 0)) / step**2, atol=1e-4)
    np.testing.assert_allclose(found.h_tie, (nll(0, step) - 2 * nll(0, 0) + nll(0, -step)) / step**2, atol=1e-4)
    both = (nll(step, step) - nll(step, -step) - nll(-step, step) + nll(-step, -step)) / (4 * step**2)
    np.testing.assert_allclose(found.h_both, both, atol=1e-4)


def test_two_systems_have_closed_forms() -> None:
    """3 wins of 4: log 3; with ties after Davidson, nu = ties / sqrt(wins x losses); after Rao and Kupper, the two odds."""
    one = np.ones(3)
    none, weight = np.zeros(3, int), np.array([6.0, 4.0, 2.0])
    votes = Votes(none, none + 1, np.array([1.0, 0.5, 0.0]), one, none, weight, one, none - 1, np.zeros((3, 0)))
    plain = Model(2, order=False)
    assert np.ptp(fit(votes, plain).ratings) == pytest.approx(math.log(8 / 4))
    davidson = fit(votes, replace(plain, ties="davidson"))
    assert np.ptp(davidson.ratings) == pytest.approx(math.log(6 / 2))
    assert davidson.tie[0] == pytest.approx(math.log(4 / math.sqrt(6 * 2)))
    kupper = fit(votes, replace(plain, ties="rao-kupper"))
    up, down = math.log((6 / 12) / (6 / 12)), math.log((2 / 12) / (10 / 12))  # log-odds of a win and of a loss
    assert np.ptp(kupper.ratings) == pytest.approx((up - down) / 2)
    assert math.exp(kupper.tie[0]) == pytest.approx(-(up + down) / 2)


@pytest.mark.parametrize("ties", ["half", "davidson", "rao-kupper"])
@pytest.mark.parametrize("sharpness", [False, True])
def test_newton_finds_the_optimum_of_a_general_optimiser(ties: Any, sharpness: bool) -> None:
    votes, _ = drawn(400, 4, judges=2, gamma=2.0, features=2, style=0.5)
    model = Model(4, 2, 2, ties, True, sharpness, 0.1)
    found = fit(votes, model)
    assert found.converged
    cells = ratings.cells_of(votes, ties)

    def value(x: np.ndarray) -> float:
        theta = found.theta.copy()
        theta[found.free] = x
        return ratings._value(cells, model, theta, found.free)[0]

    slow = minimize(value, found.theta[found.free] + 0.2, method="BFGS", options={"gtol": 1e-4})
    assert value(found.theta[found.free]) <= slow.fun + 1e-6
    x, step = found.theta[found.free], 1e-4
    gradient, hessian = ratings._value(cells, model, found.theta + 0.05 * found.free, found.free)[1:3]
    for place, unit in enumerate(np.eye(len(x))):
        slope = (value(x + 0.05 + step * unit) - value(x + 0.05 - step * unit)) / (2 * step)
        assert gradient[found.free][place] == pytest.approx(slope, abs=1e-4)
        bend = (value(x + 0.05 + step * unit) - 2 * value(x + 0.05) + value(x + 0.05 - step * unit)) / step**2
        assert hessian[found.free][:, found.free][place, place] == pytest.approx(bend, rel=1e-3, abs=1e-2)


def test_equals_statsmodels_with_its_sandwich() -> None:
    """A logistic regression on differences of indicators, with heteroscedasticity-consistent (HC0) and cluster-robust errors."""
    from statsmodels.api import GLM, families

    votes, _ = drawn(1200, 5, features=1, style=0.4)
    votes = votes.take(votes.outcome != 0.5)
    design = np.zeros((len(votes.left), 5))
    design[np.arange(len(design)), votes.left] += 1
    design[np.arange(len(design)), votes.right] -= 1
    design = np.c_[design[:, 1:], votes.first, votes.features]  # the first system is 0
    model = Model(5, 1, 1)
    found = fit(votes, model)
    contrast = np.zeros((6, model.size))
    contrast[:4, 1:5], contrast[:4, 0] = np.eye(4), -1
    contrast[4, 5], contrast[5, 6] = 1, 1
    clusters = np.random.default_rng(0).integers(0, 60, len(design))
    for kind, cluster, factor in (("HC0", np.full(len(design), -1), 1.0), ("cluster", clusters, 1.0)):
        options = {"groups": clusters, "use_correction": False} if kind == "cluster" else {}
        other = GLM(votes.outcome, design, family=families.Binomial()).fit(cov_type=kind, cov_kwds=options)
        np.testing.assert_allclose(contrast @ np.where(found.free, found.theta, 0), other.params, atol=1e-5)
        ours = contrast @ covariance(found, votes._replace(cluster=cluster)) @ contrast.T
        if kind == "cluster":
            factor = 60 / 59
        np.testing.assert_allclose(ours / factor, other.cov_params(), rtol=1e-4)


def test_ratings_equal_those_of_other_libraries() -> None:
    evalica, choix = pytest.importorskip("evalica"), pytest.importorskip("choix")
    votes, _ = drawn(2000, 7)
    ours = fit(votes, Model(7, order=False)).ratings
    wins = [
        (int(a), int(b)) if y == 1 else (int(b), int(a)) for a, b, y in zip(votes.left, votes.right, votes.outcome, strict=True) if y != 0.5
    ]
    decided = fit(votes.take(votes.outcome != 0.5), Model(7, order=False)).ratings
    np.testing.assert_allclose(decided, choix.ilsr_pairwise(7, wins), atol=1e-5)
    kinds = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    found = evalica.bradley_terry(
        votes.left.tolist(), votes.right.tolist(), [kinds[y] for y in votes.outcome], tolerance=1e-12, limit=10000
    )
    theirs = np.log(found.scores.sort_index().to_numpy())
    np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-5)


def test_groups_change_nothing() -> None:
    votes, _ = drawn(5000, 4, judges=2, gamma=1.5)
    model = Model(4, 2, sharpness=True)
    few, group = grouped(votes)
    assert len(few.left) < 200
    np.testing.assert_array_equal(np.bincount(group), few.weight)
    whole, small = fit(votes, model), fit(few, model)
    np.testing.assert_allclose(whole.theta[whole.free], small.theta[whole.free], atol=1e-8)
    np.testing.assert_allclose(covariance(whole, votes), covariance(small, few), atol=1e-10)
    alone = votes._replace(cluster=np.arange(5000))  # clusters of one, with C / (C - 1)
    np.testing.assert_allclose(covariance(whole, alone), covariance(small, few) * 5000 / 4999, rtol=1e-6, atol=1e-12)


def test_swapping_sides_changes_signs_only() -> None:
    votes, _ = drawn(500, 4, judges=2, features=1, style=0.5)
    mirrored = votes._replace(left=votes.right, right=votes.left, outcome=1 - votes.outcome, first=-votes.first, features=-votes.features)
    for ties in ("half", "davidson", "rao-kupper"):
        model = Model(4, 2, 1, ties, sharpness=True)  # type: ignore[arg-type]
        np.testing.assert_allclose(fit(votes, model).theta, fit(mirrored, model).theta, atol=1e-6)


def test_a_contrary_judge_has_a_sharpness_below_zero() -> None:
    votes, truth = drawn(8000, 5, judges=2, gamma=-1.0)
    found = fit(votes, Model(5, 2, sharpness=True))
    assert found.sharpness[1] == pytest.approx(-1.0, abs=0.15)
    assert np.corrcoef(found.ratings, truth)[0, 1] > 0.98
    # Also where it is the one with most votes, whose ratings the search begins with.
    most = votes.take(np.flatnonzero((votes.judge == 1) | (np.arange(8000) % 3 == 0)))
    found = fit(most, Model(5, 2, sharpness=True))
    assert found.sharpness[1] == pytest.approx(-1.0, abs=0.2)
    assert np.corrcoef(found.ratings, truth)[0, 1] > 0.97


def test_a_system_that_never_loses_has_a_finite_rating_with_a_prior() -> None:
    one = np.ones(6)
    votes = Votes(
        np.array([0, 0, 0, 1, 2, 1]), np.array([1, 1, 2, 2, 1, 2]), np.array([1, 1, 1, 1, 1, 0.0]), one, np.zeros(6, int), one, one,
        -np.ones(6, int), np.zeros((6, 0)),
    )  # fmt: skip
    found = fit(votes, Model(3, order=False, ridge=1 / 9))
    assert found.converged
    assert found.ratings.argmax() == 0
    assert 0 < found.ratings[0] < 9
    # At the optimum, score = ridge x rating.
    p = expit(found.ratings[votes.left] - found.ratings[votes.right])
    gap = np.bincount(votes.left, votes.outcome - p, 3) - np.bincount(votes.right, votes.outcome - p, 3)
    np.testing.assert_allclose(gap, found.ratings / 9, atol=1e-6)


def test_resamples_of_groups_are_multinomial_and_clusters_stay_together() -> None:
    votes, _ = drawn(400, 3)
    few, _ = grouped(votes)
    factors = np.array([resampled(few, np.random.default_rng(i)) for i in range(2000)])
    counts = factors * few.weight
    assert (counts.sum(1) == 400).all()
    np.testing.assert_allclose(counts.mean(0), few.weight, atol=6 * np.sqrt(few.weight.max() / 2000))
    np.testing.assert_allclose(counts.var(0), few.weight * (1 - few.weight / 400), rtol=0.25)
    clusters = np.arange(400) // 4
    factor = resampled(votes._replace(cluster=clusters), np.random.default_rng(0)).reshape(100, 4)
    assert (factor == factor[:, :1]).all() and factor[:, 0].sum() == 100


def test_intervals_of_ranks() -> None:
    """Without error the ranks are points; two systems that are equal share theirs; and a simulation covers."""
    rng = np.random.default_rng(0)
    exact = ranks(np.array([3.0, 1.0, 2.0]), rng.normal(0, 1e-6, (500, 3)))
    np.testing.assert_array_equal([exact.low, exact.high], [[1, 3, 2], [1, 3, 2]])
    assert exact.better.sum() == 3
    truth, spread = np.array([2.0, 0.0, 0.0, -2.0]), np.diag([0.25, 0.25, 0.25, 0.25])
    held, false = 0, 0
    for i in range(300):
        draws = normal_draws(spread, 400, np.random.default_rng(i))
        found = ranks(truth + 0.5 * rng.standard_normal(4), draws)
        held += found.low[1] <= 2 and found.high[1] >= 3  # its true rank is 2 or 3
        false += found.better[1, 2] or found.better[2, 1]
    assert held / 300 > 0.93
    assert false / 300 < 0.05  # one pair of six: well below


def test_the_next_pair_tells_most() -> None:
    """Against the drop of the log-determinant of the covariance, times the chance of a wrong order; and orders alternate."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    spread, r = root @ root.T, rng.normal(0, 1, 5)
    (i, j, nats), *_ = next_pairs(r, spread, 1)

    def gain(a: int, b: int) -> float:
        d, p = np.zeros(5), expit(r[a] - r[b])
        d[a], d[b] = 1, -1
        new = np.linalg.inv(np.linalg.inv(spread) + p * (1 - p) * np.outer(d, d))
        return float(np.linalg.slogdet(spread)[1] - np.linalg.slogdet(new)[1]) / 2

    def wrong(a: int, b: int) -> float:
        return float(norm.cdf(-abs(r[a] - r[b]) / np.sqrt(spread[a, a] + spread[b, b] - 2 * spread[a, b])))

    best = max(combinations(range(5), 2), key=lambda pair: gain(*pair) * wrong(*pair))
    assert set(best) == {i, j} and nats == pytest.approx(gain(*best))
    # Where the order is certain, nothing is asked as long as another pair is open.
    (i, j, _), *_ = next_pairs(np.array([9.0, 0.0, 0.1]), np.diag([4.0, 0.01, 0.01]), 1)
    assert {i, j} == {1, 2}
    many = next_pairs(r, spread, 40)
    assert {r[a] >= r[b] for a, b, _ in many[::2]} == {True} and {r[a] >= r[b] for a, b, _ in many[1::2]} == {False}
    assert many[-1][2] < many[0][2]
    assert next_pairs(r, np.zeros((5, 5)), 3) == []


def test_keys_of_groups_do_not_overflow() -> None:
    codes = np.array([0, 10**7, 10**7, 5, 10**7])
    one = np.ones(5)
    votes = Votes(codes, codes[::-1].copy(), one, one, codes, one, one, codes, np.zeros((5, 0)))
    rows, group = grouped(votes)
    key = list(zip(codes, codes[::-1], strict=True))
    assert len(rows.left) == len(set(key)) and [key[0] == each for each in key] == (group == group[0]).tolist()
