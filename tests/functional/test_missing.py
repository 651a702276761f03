"""Gaps in tables of log-odds."""

from __future__ import annotations

import numpy as np
import pytest

from prefrep.functional.missing import completed


def gapped(table: np.ndarray, *pairs: tuple[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    found = table.copy()
    for i, j in pairs:
        found[i, j] = found[j, i] = np.nan
    return found


def test_ratings_that_made_a_table_fill_its_gaps() -> None:
    ratings = np.random.default_rng(0).standard_normal(5)
    whole = ratings[:, None] - ratings[None, :]
    assert completed(whole) is whole
    assert completed(gapped(whole, (0, 1), (2, 4), (1, 3))) == pytest.approx(whole)


def test_nothing_is_implied_about_answers_that_nothing_joins() -> None:
    whole = np.array([[0, 1, 5, 5], [-1, 0, 5, 5], [-5, -5, 0, 2], [-5, -5, -2, 0]], dtype=float)
    found = completed(gapped(whole, (0, 2), (0, 3), (1, 2), (1, 3)))
    assert found.tolist() == [[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 2], [0, 0, -2, 0]]
    assert completed(gapped(np.zeros((2, 2)), (0, 1))).tolist() == [[0, 0], [0, 0]]


def test_of_a_table_with_circles_the_best_fit_counts() -> None:
    generator = np.random.default_rng(1)
    table = generator.standard_normal((4, 4))
    table = table - table.T
    found = completed(gapped(table, (0, 3)))
    rows = [(i, j) for i in range(4) for j in range(i + 1, 4) if (i, j) != (0, 3)]
    design = np.zeros((len(rows), 4))
    for row, (i, j) in enumerate(rows):
        design[row, i], design[row, j] = 1, -1
    ratings, *_ = np.linalg.lstsq(design, np.array([table[i, j] for i, j in rows]), rcond=None)
    assert found[0, 3] == pytest.approx(ratings[0] - ratings[3]) and np.array_equal(found, -found.T)
    assert found[1, 2] == table[1, 2]
