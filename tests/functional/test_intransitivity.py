"""Cyclic triples and spectra against loops, closed forms and tables of known rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from prefrep.functional import intransitivity, skew
from prefrep.functional.intransitivity import Bools, Floats, Triples, condorcet_winner, dimension, effective_rank, spectrum, triples

RNG = np.random.default_rng(2)
ROCK_PAPER_SCISSORS = np.array([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])


def verdicts(size: int) -> Floats:
    upper = np.triu(RNG.integers(-1, 2, (size, size)), 1).astype(float)
    return upper - upper.T


def slow(table: Floats, compared: Bools) -> list[int]:
    """By definition: a weak order is consistent with a triple or not."""
    counts = [0, 0, 0, 0]
    for corner in itertools.combinations(range(len(table)), 3):
        if not all(compared[i, j] for i, j in itertools.combinations(corner, 2)):
            continue
        strict = all(table[i, j] != 0 for i, j in itertools.combinations(corner, 2))
        fits = any(
            all(np.sign(table[corner[a], corner[b]]) == np.sign(ranks[a] - ranks[b]) for a, b in itertools.combinations(range(3), 2))
            for ranks in itertools.product(range(3), repeat=3)
        )
        counts[(0 if strict else 2) + int(fits)] += 1
    return counts


@pytest.mark.parametrize("size", [2, 3, 5, 7])
@pytest.mark.parametrize("density", [1.0, 0.7])
def test_triples_by_definition(size: int, density: float) -> None:
    compared = np.triu(RNG.random((size, size)) < density, 1)
    compared = compared | compared.T
    table = verdicts(size) * compared
    assert list(triples(table, compared)) == slow(table, compared)


def test_an_order_has_no_cyclic_triples_and_batches_work() -> None:
    r = RNG.standard_normal(6)
    tables = np.stack([np.subtract.outer(r, r), -np.subtract.outer(r, r)])
    found = triples(tables)
    assert found.cyclic.tolist() == [0, 0] and found.ordered.tolist() == [20, 20]
    assert [int(n) for n in triples(ROCK_PAPER_SCISSORS)] == [1, 0, 0, 0]
    assert triples(np.zeros((3, 3))) == Triples(0, 0, 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_as_many_as_the_numbers_of_wins_say(size: int) -> None:
    """Kendall and Babington Smith: C(K, 3) - sum_i C(w_i, 2)."""
    upper = np.triu(RNG.choice([-1.0, 1.0], (size, size)), 1)
    table = upper - upper.T
    wins = (table > 0).sum(1)
    assert triples(table).cyclic == size * (size - 1) * (size - 2) // 6 - (wins * (wins - 1) // 2).sum()


def test_a_quarter_of_coin_tosses_is_cyclic() -> None:
    upper = np.triu(RNG.choice([-1.0, 1.0], (20000, 4, 4)), 1)
    assert triples(upper - np.swapaxes(upper, 1, 2)).cyclic.mean() / 4 == pytest.approx(0.25, abs=0.01)


def test_condorcet_winner() -> None:
    dominant = np.zeros((4, 4))
    dominant[1:, 1:] = ROCK_PAPER_SCISSORS
    dominant[0, 1:], dominant[1:, 0] = 0.1, -0.1
    assert condorcet_winner(dominant) == 0
    assert condorcet_winner(-dominant) is None and condorcet_winner(ROCK_PAPER_SCISSORS) is None
    some = np.ones((4, 4), bool)
    some[0, 3] = some[3, 0] = False
    assert condorcet_winner(dominant, some) is None, "not compared is not beaten"


def test_spectrum_of_a_rank_two_table() -> None:
    """s = a b^T - b a^T with orthogonal a, b has one block, of scale |a| |b|; rank 2, dimension 2, effective rank 2."""
    a, b = np.array([3.0, 0, 4, 0, 0]), np.array([0.0, 2, 0, 0, 0])
    scales = spectrum(np.outer(a, b) - np.outer(b, a))
    np.testing.assert_allclose(scales, [10, 0], atol=1e-12)
    assert effective_rank(scales) == pytest.approx(2) and dimension(scales, 1 - 1e-9) == 2


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_spectrum_is_that_of_the_canonical_form(size: int) -> None:
    noise = RNG.standard_normal((size, size))
    table = noise - noise.T
    scales = spectrum(table)
    even = size + size % 2
    padded = np.zeros((even, even))
    padded[:size, :size] = table
    expected, _ = skew.canonical_form(torch.from_numpy(padded))
    np.testing.assert_allclose(scales, expected[: size // 2], atol=1e-10)
    assert np.square(scales).sum() == pytest.approx(np.square(table).sum() / 2), "the energy of the table"


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_dimension_is_the_one_whose_best_table_holds_the_share(share: float) -> None:
    noise = RNG.standard_normal((9, 9))
    table = noise - noise.T
    found = dimension(spectrum(table), share)
    energy = np.square(table).sum()

    def held(dim: int) -> float:
        missed = table - skew.table(skew.embed_matrix(torch.from_numpy(table), dim)).numpy()
        return float(1 - np.square(missed).sum() / energy)

    assert held(found) >= share > held(found - 2)


def test_effective_rank_of_equal_blocks_and_of_nothing() -> None:
    assert effective_rank(np.array([2.0, 2.0, 2.0])) == pytest.approx(6)
    assert effective_rank(np.zeros(3)) == 0 and effective_rank(np.zeros(0)) == 0
    assert dimension(np.zeros(2), 0.9) == 0 and dimension(np.zeros(0), 0.9) == 0
    assert intransitivity.spectrum(np.zeros((1, 1))).shape == (0,)
