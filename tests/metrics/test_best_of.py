"""Choices among responses of known quality, against counts by hand and against definitions written as loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from prefrep.metrics import best_of


def test_pairs_are_won_strictly() -> None:
    gold = np.array([1.0, 0.0, 1.0, 0.5])
    scores = np.array([2.0, 2.0, 3.0, 2.5])
    margins = scores[:, None] - scores[None, :]
    # better, worse: (0,1) tie, (0,3) lost, (2,1) won, (2,3) won, (3,1) won
    assert best_of.pair_wins(gold, margins).tolist() == [0, 0, 1, 1, 1]
    margins[2, 1] = margins[1, 2] = np.nan  # not compared
    assert best_of.pair_wins(gold, margins).tolist() == [0, 0, 1, 1]
    assert best_of.pair_wins(np.ones(3), np.zeros((3, 3))).tolist() == []


def test_strength_is_the_mean_over_the_others() -> None:
    margins = np.array([[0, 2, -1], [-2, 0, 4], [1, -4, 0]], dtype=np.float64)
    assert best_of.strengths(margins).tolist() == [0.5, 1.0, -1.5]
    assert best_of.strengths(np.zeros((1, 1))).tolist() == [0.0]


def test_responses_that_share_the_top_count_alike() -> None:
    gold = np.array([1.0, 0.0, 0.25])
    assert best_of.value_of_choice(gold, np.array([1.0, 2.0, 0.0])) == 0.0
    assert best_of.value_of_choice(gold, np.array([2.0, 2.0, 0.0])) == 0.5
    assert best_of.value_of_choice(gold, np.zeros(3)) == pytest.approx(1.25 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_area_is_the_probability_that_a_positive_scores_higher(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, positive = generator.integers(0, 6, 40).astype(float), generator.random(40) < 0.4  # with ties
    weights = generator.integers(0, 4, 40)
    pairs = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i, j in itertools.product(range(40), repeat=2)
        if positive[i] and not positive[j]
    ]
    assert best_of.area_under_roc(scores, positive) == pytest.approx(float(np.mean(pairs)), abs=1e-12)
    repeated = np.repeat(np.arange(40), weights)
    expected = best_of.area_under_roc(scores[repeated], positive[repeated])
    assert best_of.area_under_roc(scores, positive, weights) == pytest.approx(expected, abs=1e-12)


def test_area_without_negatives_is_undefined() -> None:
    assert math.isnan(best_of.area_under_roc([1.0, 2.0], [True, True]))
