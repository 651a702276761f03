"""Rules that aggregate people: limits, order, Condorcet's cycle, and lotteries against a search over the simplex."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from prefrep.errors import ConfigError
from prefrep.functional import aggregation
from prefrep.functional.intransitivity import triples

PEOPLE = np.array([[3.0, 0.0, 1.0], [0.0, 3.0, 1.2], [3.0, 0.0, 1.0]])  # responses: for two of three, for the third, safe for all
CYCLE = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])  # Condorcet: a > b > c, b > c > a, c > a > b


def tables(rewards: np.ndarray) -> np.ndarray:
    return rewards[:, :, None] - rewards[:, None, :]


def test_power_means_rise_from_the_minimum_over_the_mean_to_the_maximum() -> None:
    rewards = np.random.default_rng(0).normal(0, 2, (7, 5))
    levels = [-math.inf, -50.0, -3.0, -1e-6, 0.0, 1e-6, 2.0, 50.0, math.inf]
    found = np.array([aggregation.power_mean(rewards, alpha) for alpha in levels])
    assert (np.diff(found, axis=0) >= -1e-9).all()
    np.testing.assert_allclose(found[3], rewards.mean(0), atol=1e-5)
    np.testing.assert_allclose(found[5], rewards.mean(0), atol=1e-5)
    np.testing.assert_array_equal(found[0], rewards.min(0))
    # (1/alpha) log mean exp is within log(U) / |alpha| of its limit.
    assert np.abs(found[[1, 7]] - [rewards.min(0), rewards.max(0)]).max() <= math.log(7) / 50 + 1e-9
    np.testing.assert_allclose(found[6], np.log(np.exp(2 * rewards).mean(0)) / 2)


def test_the_choice_turns_from_the_many_to_the_safe_response() -> None:
    choices = [int(aggregation.power_mean(PEOPLE, alpha).argmax()) for alpha in (-10, -1, 0, 1, 10)]
    assert choices == [2, 2, 0, 0, 0]
    by_rule = {rule: int(aggregation.aggregate(tables(PEOPLE), rule).scores.argmax()) for rule in aggregation.RULES}
    # Tables know rewards up to a person's mean: a sum over people does not feel that, and votes do not, either.
    assert by_rule["mean"] == by_rule["majority"] == by_rule["borda"] == by_rule["copeland"] == by_rule["maximin"] == 0
    assert by_rule["minimum"] == by_rule["log-mean-exp"] == 2


def test_transitive_people_have_a_cyclic_majority() -> None:
    social = aggregation.aggregate(tables(CYCLE), "majority")
    assert triples(social.table).cyclic == 1 and all(triples(table).cyclic == 0 for table in tables(CYCLE))
    np.testing.assert_allclose(social.table[0, 1], math.log(2.5 / 1.5))  # two of three votes
    np.testing.assert_array_equal(social.table, -social.table.T)
    for rule in ("borda", "copeland", "maximin", "mean", "minimum"):
        assert np.ptp(aggregation.aggregate(tables(CYCLE), rule).scores) < 1e-12, "nobody stands out"
    np.testing.assert_allclose(aggregation.aggregate(tables(CYCLE), "maximal-lottery").scores, 1 / 3, atol=1e-9)


@pytest.mark.parametrize("rule", aggregation.RULES)
def test_rules_ignore_the_order_of_people_and_follow_that_of_responses(rule: aggregation.Rule) -> None:
    rewards = np.random.default_rng(1).normal(0, 1, (5, 4))
    social = aggregation.aggregate(tables(rewards), rule)
    np.testing.assert_array_equal(social.table, -social.table.T)
    np.testing.assert_allclose(aggregation.aggregate(tables(rewards[::-1]), rule).scores, social.scores, atol=1e-9)
    for order in permutations(range(4)):
        np.testing.assert_allclose(aggregation.aggregate(tables(rewards[:, order]), rule).scores, social.scores[list(order)], atol=1e-7)
    same = aggregation.aggregate(tables(rewards[:1]), rule)  # one person: the best response is hers
    assert same.scores.argmax() == rewards[0].argmax()


def test_the_least_largest_regret_is_found() -> None:
    """Against a search over a fine grid of the simplex, and no worse than each pure choice and the uniform one (arXiv 2405.15065)."""
    for seed in range(5):
        rewards = np.random.default_rng(seed).normal(0, 1, (3, 3))
        worst = aggregation.regret(rewards, aggregation.minmax_regret(rewards)).max()
        steps = np.arange(0, 1.0001, 0.01)
        grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1.0001]
        best = min(aggregation.regret(rewards, lottery).max() for lottery in grid)
        assert best - 0.06 <= worst <= best + 1e-9  # a grid of 0.01 misses by at most 2 * 0.01 * the largest difference of rewards
        for lottery in (*np.eye(3), np.full(3, 1 / 3)):
            assert worst <= aggregation.regret(rewards, lottery).max() + 1e-9


def test_wrong_questions() -> None:
    with pytest.raises(ConfigError, match="unknown rule 'dictator'; prefrep has mean"):
        aggregation.aggregate(tables(PEOPLE), "dictator")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nobody is asked"):
        aggregation.aggregate(np.zeros((0, 3, 3)), "mean")
    with pytest.raises(ConfigError, match="alpha"):
        aggregation.check_rule("mean", math.nan)
