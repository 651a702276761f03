"""Circles between annotators and within one: Condorcet's voters, voters who all run in the same circle, and what leaves the split alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from prefrep.functional.disagreement import Society

CONDORCET = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])  # a > b > c, b > c > a, c > a > b
CIRCLE = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])


def orders(rewards: np.ndarray) -> np.ndarray:
    return rewards[..., :, None] - rewards[..., None, :]


def mixed(seed: int, people: int = 5, size: int = 5) -> np.ndarray:
    tables = np.random.default_rng(seed).normal(size=(people, size, size))
    return tables - tables.transpose(0, 2, 1)


def test_transitive_voters_of_condorcet_have_all_circles_between_them() -> None:
    found = Society(orders(CONDORCET)).circles()
    # Two of three say 1, one says -2, on each pair around: a pure circle of these log-odds.
    around = logit((2 * expit(1.0) + expit(-2.0)) / 3)
    np.testing.assert_allclose([found.energy, found.cyclic, found.between], 3 * around**2, rtol=1e-12)
    assert (found.majority, found.of_orders) == (1, 1)
    assert np.allclose(orders(CONDORCET).mean(0), 0), "pooled linearly, nothing is left of it"


def test_voters_in_the_same_circle_have_all_circles_within() -> None:
    for rewards in (np.zeros(3), np.array([0.0, 0.4, 0.3])):
        tables = np.repeat((CIRCLE + orders(rewards))[None], 3, axis=0)
        found = Society(tables).circles()
        np.testing.assert_allclose(found.cyclic, 3.0, rtol=1e-12)  # |CIRCLE|^2: of one mind, the society is each of them
        np.testing.assert_allclose(found.between, 0.0, atol=1e-12)
        assert (found.majority, found.of_orders) == (1, 0)


def test_one_person_has_nobody_to_disagree_with() -> None:
    table = mixed(0, people=1)
    alone, twice = Society(table).circles(), Society(np.repeat(table, 2, axis=0)).circles()
    assert alone.cyclic > 1 and abs(alone.between) < 1e-12
    np.testing.assert_allclose(alone, twice, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_parts_do_not_depend_on_names(seed: int) -> None:
    tables, generator = mixed(seed), np.random.default_rng(seed)
    found = Society(tables).circles()
    people, names = generator.permutation(5), generator.permutation(5)
    np.testing.assert_allclose(Society(tables[people][:, names][:, :, names]).circles(), found, rtol=1e-9)
    np.testing.assert_allclose(Society(-tables).circles(), found, rtol=1e-9)
    transitive = Society(Society(tables).orders).circles()
    np.testing.assert_allclose(transitive.between, transitive.cyclic, rtol=1e-9)
    assert transitive.majority == transitive.of_orders == found.of_orders


def test_verdicts_beyond_doubt_stay_finite() -> None:
    assert np.isfinite(Society(1e4 * orders(CONDORCET)).circles()).all()


def test_people_without_a_shared_taste_have_the_circles_of_impartial_culture() -> None:
    """Guilbaud: three voters, three responses, 1/18. All agree here, and have no circle."""
    society = Society(orders(np.tile([2.0, 1.0, 0.0], (3, 1))))
    assert (society.circles().majority, society.circles().between) == (0, pytest.approx(0, abs=1e-12))
    drawn = society.relabelled(20_000, np.random.default_rng(0))
    assert len(drawn.majority) == 20_000
    assert abs(drawn.majority.mean() - 1 / 18) < 4 * (1 / 18 * 17 / 18 / 20_000) ** 0.5
    np.testing.assert_allclose(drawn.between, drawn.cyclic, atol=1e-9)
    circle = Society(CIRCLE[None]).relabelled(50, np.random.default_rng(0))
    assert (circle.majority == 1).all() and (circle.of_orders == 0).all(), "a circle stays one under every name"
    np.testing.assert_allclose(circle.cyclic, 3.0)


@pytest.mark.parametrize("people", [2, 4])
def test_two_or_four_orders_have_no_cyclic_majority_and_yet_circles(people: int) -> None:
    """Three strict majorities of four need nine votes, and four orders have eight."""
    drawn = Society(orders(np.tile([3.0, 2.0, 1.0, 0.0], (people, 1)))).relabelled(500, np.random.default_rng(people))
    assert drawn.majority.sum() == 0 < drawn.cyclic.mean()
    assert Society(orders(np.tile([3.0, 2.0, 1.0, 0.0], (5, 1)))).relabelled(500, np.random.default_rng(0)).majority.sum() > 0
