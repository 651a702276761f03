"""Minimum feedback arc sets against all permutations; bounds beyond the exact sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prefrep.functional import feedback_arcs
from prefrep.functional.feedback_arcs import Floats

RNG = np.random.default_rng(1)


def arcs(size: int, unit: bool = False, both: bool = False) -> Floats:
    noise = RNG.standard_normal((size, size))
    table = np.abs(noise) if both else np.maximum(noise - noise.T, 0)
    np.fill_diagonal(table, 0)
    return (table > 0).astype(float) if unit else table


def ignored(table: Floats, order: tuple[int, ...]) -> float:
    return sum(table[worse, better] for better, worse in itertools.combinations(order, 2))


def brute(table: Floats) -> float:
    return min(ignored(table, order) for order in itertools.permutations(range(len(table))))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("kind", [{}, {"unit": True}, {"both": True}])
def test_equals_the_best_of_all_orders(size: int, kind: dict[str, bool]) -> None:
    tables = np.stack([arcs(size, **kind) for _ in range(4)])
    expected = [brute(table) for table in tables]
    np.testing.assert_allclose(feedback_arcs.minimum_weights(tables), expected, atol=1e-12)
    for table, weight in zip(tables, expected, strict=True):
        found = feedback_arcs.minimum(table)
        assert found.weight == pytest.approx(weight, abs=1e-12) == found.lower
        assert sorted(found.order) == list(range(size))
        assert ignored(table, found.order) == pytest.approx(weight, abs=1e-12)


def test_small_batches_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = np.stack([arcs(5) for _ in range(7)])
    whole = feedback_arcs.minimum_weights(tables)
    monkeypatch.setattr(feedback_arcs, "_CELLS", 500)  # two tables at a time
    np.testing.assert_array_equal(feedback_arcs.minimum_weights(tables), whole)


@pytest.mark.parametrize("size", [8, 11])
def test_bounds_hold_the_minimum(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [arcs(size, both=bool(i % 2)) for i in range(6)]
    exact = [feedback_arcs.minimum(table).weight for table in tables]
    monkeypatch.setattr(feedback_arcs, "EXACT", 5)
    for table, minimum in zip(tables, exact, strict=True):
        found = feedback_arcs.minimum(table)
        assert found.lower - 1e-9 <= minimum <= found.weight + 1e-9
        assert found.weight == pytest.approx(ignored(table, found.order))
        assert found.weight <= 1.2 * minimum  # one insertion away from no improvement


def test_an_order_of_many_and_one_long_cycle() -> None:
    """An order ignores nothing; one arc that turns back over all of them costs itself, and then both bounds meet."""
    order = RNG.permutation(20)
    table = np.zeros((20, 20))
    for better, worse in itertools.combinations(order, 2):
        table[better, worse] = 1.0
    assert feedback_arcs.minimum(table)[:2] == (0.0, 0.0)
    assert feedback_arcs.minimum(table).order == tuple(order)
    table[order[0], order[-1]], table[order[-1], order[0]] = 0.0, 1.0
    assert feedback_arcs.minimum(table)[:2] == (1.0, 1.0)


def test_sizes_that_are_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="stops at K = 14, got 15"):
        feedback_arcs.minimum_weights(np.zeros((1, 15, 15)))
