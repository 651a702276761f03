"""Transitive judges: means are kept, dependence is found again; and richer forms find circles that ratings cannot hold."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, logit

from prefrep.functional import rating_nulls, ratings, skew_ratings
from prefrep.functional.battle_votes import Votes


def asked(prompts: int, systems: int, votes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of systems on all prompts, each judged so often."""
    pairs = np.array([(p, i, j) for p in range(prompts) for i, j in combinations(range(systems), 2)])
    pairs = np.repeat(pairs, votes, axis=0)
    flip = np.random.default_rng(0).random(len(pairs)) < 0.5
    left, right = np.where(flip, pairs[:, 2], pairs[:, 1]), np.where(flip, pairs[:, 1], pairs[:, 2])
    return pairs[:, 0], left, right


@pytest.mark.parametrize(("spread", "share"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.4), (2.0, 1.0)])
def test_dependence_is_found_again(spread: float, share: float) -> None:
    prompt, left, right = asked(150, 6, 2)
    truth = np.linspace(-0.8, 0.8, 6)
    eta = truth[left] - truth[right]
    who = rating_nulls.answers(left, right, prompt, 6)
    assert (who.items, who.answers) == (150 * 15, 150 * 6)
    judge = np.zeros(len(left), dtype=int)
    how = rating_nulls.Dependence(spread, share, np.array([0.3]))
    draws = [rating_nulls.redrawn(eta, judge, who, how, np.random.default_rng(10 + i)) for i in range(4)]
    found = [rating_nulls.dependence(expit(eta), y, judge, 1, who) for y in draws]
    assert np.mean([each.spread**2 for each in found]) == pytest.approx(spread**2, abs=0.12 + 0.2 * spread)
    assert np.mean([each.ties[0] for each in found]) == pytest.approx(0.3, abs=0.03)
    if spread:
        assert np.mean([each.share for each in found]) == pytest.approx(share, abs=0.15)


def test_draws_keep_the_mean_whatever_the_spread() -> None:
    prompt, left, right = asked(400, 4, 1)
    truth = np.array([-1.5, -0.5, 0.5, 1.5])
    eta = truth[left] - truth[right]
    who, judge = rating_nulls.answers(left, right, prompt, 4), np.zeros(len(left), dtype=int)
    for spread in (0.0, 1.0, 2.0):
        how = rating_nulls.Dependence(spread, 1.0, np.array([0.4]))
        drawn = np.mean([rating_nulls.redrawn(eta, judge, who, how, np.random.default_rng(i)) for i in range(20)], axis=0)
        for i, j in combinations(range(4), 2):
            rows = (left == i) & (right == j)
            assert drawn[rows].mean() == pytest.approx(expit(truth[i] - truth[j]), abs=0.03)


def test_unknown_prompts_share_nothing() -> None:
    _, left, right = asked(3, 4, 2)
    who = rating_nulls.answers(left, right, np.full(len(left), -1), 4)
    assert (who.item == -1).all() and who.answers == 0
    how = rating_nulls.dependence(np.full(len(left), 0.5), np.ones(len(left)), np.zeros(len(left), dtype=int), 1, who)
    assert how.spread == 0


def circular(n: int = 6000, seed: int = 0) -> tuple[Votes, np.ndarray]:
    """Battles of rock, paper, scissors and a well; s = 1.5 nats along the circle."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(4) / 4
    table = 1.5 * np.sin(angle[None, :] - angle[:, None])
    left = rng.integers(0, 4, n)
    right = (left + rng.integers(1, 4, n)) % 4
    won = (rng.random(n) < expit(table[left, right] + 0.3)).astype(float)
    one = np.ones(n)
    return Votes(left, right, won, one, np.zeros(n, dtype=int), one, one, np.full(n, -1), np.zeros((n, 0))), table


@pytest.mark.parametrize("form", ["gpm", "hybrid"])
def test_two_dimensions_hold_a_circle(form: skew_ratings.Form) -> None:
    votes, table = circular()
    base = ratings.fit(votes, ratings.Model(4))
    found = skew_ratings.fit(votes, 4, base.sharpness, form, 2, base.ratings, base.order, prior=0.01)
    np.testing.assert_allclose(found.table(), table, atol=0.25)
    np.testing.assert_array_equal(found.table(), -found.table().T)
    assert found.order[0] == pytest.approx(0.3, abs=0.1)
    assert found.nll < base.nll - 300
    # log-odds of each pair, which four free pairs determine and D = 4 holds, are those of its votes
    full = skew_ratings.fit(votes, 4, base.sharpness, form, 4, base.ratings, base.order, prior=1e-4)
    for i, j in combinations(range(4), 2):
        for a, b in ((i, j), (j, i)):
            rows = (votes.left == a) & (votes.right == b)
            assert full.table()[a, b] + full.order[0] == pytest.approx(logit(votes.outcome[rows].mean()), abs=0.2)


def test_the_gradient_is_that_of_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    votes, _ = circular(300)
    seen = []

    def spy(value, x, **rest) -> object:
        seen.append((value, np.array(x)))
        return minimize(value, x, **rest)

    monkeypatch.setattr("scipy.optimize.minimize", spy)
    base = ratings.fit(votes, ratings.Model(4))
    found = skew_ratings.fit(votes, 4, base.sharpness, "hybrid", 2, base.ratings, base.order, 0.7, 0.2)
    value, start = seen[0]
    x = start + 0.1 * np.arange(len(start))
    np.testing.assert_allclose(value(x)[1], approx_fprime(x, lambda each: value(each)[0], 1e-6), atol=1e-3)
    penalty = 0.7 / 2 * (found.embeddings**2).sum()
    assert found.value >= found.nll + penalty  # and the ridge
