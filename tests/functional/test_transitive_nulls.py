"""Null tables: what they keep, how they are distributed, and that p-values have their level on transitive data."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from prefrep.functional import feedback_arcs, hodge
from prefrep.functional import transitive_nulls as nulls
from prefrep.functional.intransitivity import triples
from prefrep.functional.transitive_nulls import Counts, Floats
from prefrep.functional.votes import majority, vote_margins

LEVELS = np.arange(1.0, 6.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def skew(size: int, generator: np.random.Generator) -> Floats:
    noise = np.triu(generator.standard_normal((size, size)), 1)
    return noise - noise.T


def weight(tables: Floats) -> Floats:
    return feedback_arcs.minimum_weights(np.maximum(tables, 0))


def no_ties(wins: Counts) -> Counts:
    return np.zeros_like(wins)


def votes(r: NDArray[np.float64], each: int, generator: np.random.Generator) -> Counts:
    """Votes of a Bradley-Terry model, [K, K]."""
    wins = np.zeros((len(r), len(r)), np.int64)
    for i, j in itertools.combinations(range(len(r)), 2):
        wins[i, j] = generator.binomial(each, 1 / (1 + np.exp(r[j] - r[i])))
        wins[j, i] = each - wins[i, j]
    return wins


# ---- rotated


@pytest.mark.parametrize("holes", [False, True])
def test_rotations_keep_gradient_and_energy(holes: bool) -> None:
    table, compared = skew(5, rng()), hodge.everywhere(5)
    if holes:
        compared[0, 2] = compared[2, 0] = compared[1, 3] = compared[3, 1] = False
        table = table * compared
    drawn = nulls.rotated(table, compared, 20, rng(1))
    expected = hodge.split(table, compared)
    found = hodge.split(drawn, compared)
    np.testing.assert_allclose(found.gradient, np.broadcast_to(expected.gradient, drawn.shape), atol=1e-12)
    np.testing.assert_allclose(hodge.energy(drawn), hodge.energy(table))
    np.testing.assert_array_equal(drawn, -np.swapaxes(drawn, 1, 2))
    assert not drawn[:, ~compared].any() and len({round(x, 6) for x in drawn[:, 0, 1]}) == 20


def test_a_transitive_table_stays_as_it_is() -> None:
    r = np.array([0.3, -1.0, 2.0, 0.1])
    table = np.subtract.outer(r, r)
    np.testing.assert_allclose(nulls.rotated(table, None, 3, rng()), np.stack([table] * 3), atol=1e-12)


def test_three_responses_have_two_rotations() -> None:
    table = skew(3, rng())
    parts = hodge.split(table)
    drawn = nulls.rotated(table, None, 200, rng(1))
    signs = [np.allclose(each, parts.gradient + parts.curl) for each in drawn]
    flipped = [np.allclose(each, parts.gradient - parts.curl) for each in drawn]
    assert all(a != b for a, b in zip(signs, flipped, strict=True)) and 70 <= sum(signs) <= 130


def test_level_of_rotations() -> None:
    """Transitive scores with normal errors, errors as large as the gaps: p is uniform for a statistic without ties."""
    generator, found = rng(5), []
    for _ in range(400):
        r = generator.standard_normal(5)
        table = np.subtract.outer(r, r) + skew(5, generator)
        found.append(nulls.p_value(weight(table[None])[0], weight(nulls.rotated(table, None, 99, generator))))
    rejected = np.mean(np.array(found) <= 0.1)
    assert rejected == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 400))


def test_power_of_rotations() -> None:
    """Gaps of 1 and a cyclic part that is aimed at them: five responses around a circle, each losing only to the last ones."""
    angle = 2 * np.pi * np.arange(7) / 7
    circle = np.sin(np.subtract.outer(angle, angle))
    table = circle + 0.05 * np.subtract.outer(np.arange(7.0), np.arange(7.0)) / 7
    drawn = nulls.rotated(table, None, 199, rng())
    assert nulls.p_value(float(triples(table).cyclic), triples(drawn).cyclic) <= 0.05


# ---- revoted


def test_votes_keep_their_numbers() -> None:
    generator = rng(2)
    wins = votes(np.array([1.0, 0.4, 0.0, -0.5, -0.9]), 3, generator)
    wins[0, 1] = wins[1, 0] = 0  # a pair that was not compared
    drawn = nulls.revoted(wins, 50, generator)
    np.testing.assert_array_equal(drawn.sum(2), np.broadcast_to(wins.sum(1), (50, 5)))
    np.testing.assert_array_equal(drawn + np.swapaxes(drawn, 1, 2), np.broadcast_to(wins + wins.T, drawn.shape))
    assert drawn.min() >= 0 and len(np.unique(drawn, axis=0)) > 10


def test_votes_on_a_triangle_follow_their_law() -> None:
    """Given the wins, (w_01, w_12, w_20) = w + t with probability proportional to the product of C(n, w + t)."""
    n, start = 4, (3, 2, 1)
    wins = np.zeros((3, 3), np.int64)
    for (i, j), w in zip(((0, 1), (1, 2), (2, 0)), start, strict=True):
        wins[i, j], wins[j, i] = w, n - w
    shifts = [t for t in range(-n, n + 1) if all(0 <= w + t <= n for w in start)]
    law = np.array([float(np.prod([comb(n, w + t) for w in start])) for t in shifts])
    drawn = np.concatenate([nulls.revoted(wins, 1, rng(seed)) for seed in range(500)])[:, 0, 1] - start[0]
    found = np.array([(drawn == t).mean() for t in shifts])
    np.testing.assert_allclose(found, law / law.sum(), atol=4 * np.sqrt(0.25 / 500))


def test_single_votes_on_all_pairs_cannot_tell_noise_from_cycles() -> None:
    wins = votes(np.zeros(5), 1, rng(3))
    drawn = nulls.revoted(wins, 30, rng(4))
    observed = triples(vote_margins(wins, no_ties(wins))).cyclic
    assert (triples(vote_margins(drawn, no_ties(drawn))).cyclic == observed).all()


def test_votes_around_a_hole_can_turn() -> None:
    wins = np.zeros((4, 4), np.int64)
    for i in range(4):
        wins[i, (i + 1) % 4] = 1
    drawn = nulls.revoted(wins, 40, rng())
    turned = (drawn == wins.T).all((1, 2))
    assert ((drawn == wins).all((1, 2)) | turned).all() and 5 < turned.sum() < 35
    tree = np.zeros((3, 3), np.int64)
    tree[0, 1] = tree[0, 2] = 2
    np.testing.assert_array_equal(nulls.revoted(tree, 2, rng()), np.stack([tree] * 2))


@pytest.mark.parametrize(("each", "steps"), [(4, 10), (40, 0.1)])
def test_level_of_votes(each: int, steps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with chains of 24 steps over 240 votes, which stay close to where they start: without an ancestor, to the data."""
    monkeypatch.setattr(nulls, "_STEPS_PER_VOTE", steps)
    generator, found = rng(6), []
    for _ in range(200):
        wins = votes(generator.standard_normal(4), each, generator)
        drawn = nulls.revoted(wins, 60, generator)
        tables = vote_margins(np.concatenate([wins[None], drawn]), np.zeros((61, 4, 4), np.int64))
        # A little noise breaks ties, which would only make the test more cautious.
        energies = hodge.energy(hodge.split(tables).curl) + 1e-6 * generator.random(61)
        found.append(nulls.p_value(float(energies[0]), energies[1:]))
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 200))


def test_power_of_votes() -> None:
    """Nine of ten votes each time around a triangle."""
    wins = np.array([[0, 9, 1], [1, 0, 9], [9, 1, 0]])
    drawn = nulls.revoted(wins, 199, rng())
    energies = hodge.energy(hodge.split(vote_margins(drawn, no_ties(drawn))).curl)
    assert nulls.p_value(float(hodge.energy(vote_margins(wins, no_ties(wins)))), energies) < 0.02


# ---- rerated


def rated(size: int, aspects: int, noise: float, generator: np.random.Generator) -> Floats:
    raw = (
        3
        + generator.standard_normal(size)
        + 0.5 * generator.standard_normal((aspects, 1))
        + noise * generator.standard_normal((aspects, size))
    )
    return np.clip(np.round(raw), 1, 5)


def test_ratings_stay_on_their_levels() -> None:
    ratings = rated(4, 5, 1.0, rng())
    drawn = nulls.rerated(ratings, LEVELS, 30, rng(1))
    assert set(np.unique(drawn)) <= set(LEVELS) and drawn.shape == (30, 5, 4)
    additive = np.add.outer(np.array([0.0, 1.0]), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(nulls.rerated(additive, LEVELS, 2, rng()), np.stack([additive] * 2))


@pytest.mark.parametrize("noise", [0.4, 1.5])
def test_level_of_ratings(noise: float) -> None:
    """Pooled over 12 prompts, as an evaluation does it, for triples that no weak order allows: rounding must not make it too eager."""
    generator, found = rng(7), []
    for _ in range(150):
        observed, drawn = 0, np.zeros(79, np.int64)
        for _ in range(12):
            ratings = rated(4, 4, noise, generator)
            verdicts = triples(majority(np.concatenate([ratings[None], nulls.rerated(ratings, LEVELS, 79, generator)])))
            cyclic = verdicts.cyclic + verdicts.tied_cyclic
            observed += int(cyclic[0])
            drawn += cyclic[1:]
        found.append(nulls.p_value(observed, drawn.astype(float)))
    assert np.mean(np.array(found) <= 0.1) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)


def test_power_of_ratings() -> None:
    """Three aspects that each turn the order by one place: Condorcet's paradox, on every prompt."""
    ratings = np.array([[3.0, 2, 1], [1, 3, 2], [2, 1, 3]])
    drawn = np.zeros(99)
    for i in range(20):
        drawn += triples(majority(nulls.rerated(ratings, LEVELS, 99, rng(i)))).cyclic
    assert triples(majority(ratings)).cyclic == 1 and nulls.p_value(20.0, drawn) == 0.01


# ---- tables of verdicts


def test_majorities_by_hand() -> None:
    found = majority(np.array([[1.0, 2, 2], [3, 1, 1], [5, 4, 1]]))
    np.testing.assert_allclose(found, [[0, 1 / 3, 1 / 3], [-1 / 3, 0, 1 / 3], [-1 / 3, -1 / 3, 0]])


def test_vote_margins_by_hand() -> None:
    wins, ties = np.array([[0, 3, 0], [1, 0, 0], [0, 0, 0]]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(vote_margins(wins, ties), [[0, 0.4, 0], [-0.4, 0, 0], [0, 0, 0]])


def test_p_values_count_the_observed_one() -> None:
    assert nulls.p_value(2.0, np.array([0.0, 1, 2])) == 0.5
    assert nulls.p_value(9.0, np.zeros(99)) == 0.01
    assert nulls.p_value(0.0, np.zeros(9)) == 1


def test_votes_drawn_anew_have_the_pairs_and_the_strengths_of_the_data() -> None:
    truth = np.linspace(-1, 1, 45)
    rng = np.random.default_rng(0)
    votes = np.triu(rng.integers(0, 6, (45, 45)), 1)
    wins = rng.binomial(votes, 1 / (1 + np.exp(truth - truth[:, None])))
    wins = wins + (votes - wins).T * np.tril(np.ones((45, 45), dtype=int), -1)
    drawn = np.concatenate(list(nulls.bradley_terry(wins, 50, rng, 20)))
    assert drawn.shape == (50, 45, 45)
    np.testing.assert_array_equal(drawn + np.swapaxes(drawn, 1, 2), np.broadcast_to(wins + wins.T, drawn.shape))
    # Maximum likelihood keeps the wins of each on average.
    assert np.abs(drawn.mean(0).sum(1) - wins.sum(1)).max() < 4 * np.sqrt(votes.sum() / 45 / 50)
