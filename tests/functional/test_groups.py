from __future__ import annotations

import numpy as np

from prefrep.functional.groups import mean_log_odds, probabilities, win_probabilities


def test_numbers_of_a_cycle_and_an_order() -> None:
    cycle = np.array([[0, 2, -2], [-2, 0, 2], [2, -2, 0]], np.float32)
    np.testing.assert_array_equal(mean_log_odds(cycle), [0, 0, 0])
    np.testing.assert_allclose(win_probabilities(cycle), [0.5] * 3)
    order = np.array([[0, np.log(3)], [-np.log(3), 0]])
    np.testing.assert_allclose(mean_log_odds(order), [np.log(3), -np.log(3)])
    np.testing.assert_allclose(win_probabilities(order), [0.75, 0.25])


def test_a_response_alone_has_no_number_against_others() -> None:
    assert mean_log_odds(np.zeros((1, 1))).tolist() == [0] and win_probabilities(np.zeros((1, 1))).tolist() == [0.5]


def test_means_of_rewards_do_not_depend_on_the_group_size() -> None:
    rewards = np.array([1.0, 4.0, 4.0, 4.0])
    for size in (2, 3, 4):
        assert mean_log_odds(np.subtract.outer(rewards[:size], rewards[:size]))[0] == -3.0


def test_large_log_odds_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert probabilities(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
