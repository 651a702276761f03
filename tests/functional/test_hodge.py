"""The Hodge split against closed forms, explicit least squares and invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prefrep.functional import hodge
from prefrep.functional.hodge import Bools, Floats

RNG = np.random.default_rng(0)
ROCK_PAPER_SCISSORS = np.array([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]])


def skew(size: int) -> Floats:
    noise = RNG.standard_normal((size, size))
    return noise - noise.T


def ring(size: int) -> tuple[Floats, Bools]:
    """0 beats 1 beats 2 ... beats 0 by 1, and nothing else was compared."""
    table = np.zeros((size, size))
    for i in range(size):
        table[i, (i + 1) % size], table[(i + 1) % size, i] = 1.0, -1.0
    return table, table != 0


def shares(table: Floats, compared: Bools | None = None) -> list[float]:
    parts = hodge.split(table, compared)
    return [float(hodge.energy(part) / hodge.energy(table)) for part in parts[1:]]


@pytest.mark.parametrize("size", [2, 3, 5, 9])
def test_differences_of_scores_are_all_gradient(size: int) -> None:
    r = RNG.standard_normal(size)
    parts = hodge.split(np.subtract.outer(r, r))
    np.testing.assert_allclose(parts.scores, r - r.mean(), atol=1e-12)
    np.testing.assert_allclose(parts.gradient, np.subtract.outer(r, r), atol=1e-12)
    assert hodge.energy(parts.curl) < 1e-20 and hodge.energy(parts.harmonic) < 1e-20


def test_rock_paper_scissors_is_all_curl() -> None:
    np.testing.assert_allclose(shares(ROCK_PAPER_SCISSORS), [0, 1, 0], atol=1e-14)


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_ring_without_diagonals_is_all_harmonic(size: int) -> None:
    np.testing.assert_allclose(shares(*ring(size)), [0, 0, 1], atol=1e-14)


def test_one_diagonal_turns_a_ring_of_four_into_curl() -> None:
    """Both triangles have circulation 2; the flow that gives it with a 0 on the shared diagonal is the ring itself."""
    table, compared = ring(4)
    compared = compared.copy()
    compared[0, 2] = compared[2, 0] = True
    np.testing.assert_allclose(shares(table, compared), [0, 1, 0], atol=1e-14)


def test_a_hard_order_of_three_has_a_ninth_of_its_energy_in_the_curl() -> None:
    np.testing.assert_allclose(shares(np.array([[0.0, 1, 1], [-1, 0, 1], [-1, -1, 0]])), [8 / 9, 1 / 9, 0], atol=1e-14)


def test_known_energies_come_apart_again() -> None:
    """Energies 2 (0.5^2 + 0.5^2 + 1^2 = 1.5) and 3 x 0.4^2 = 0.48, which are orthogonal: their sum is the table's."""
    r = np.array([0.5, 0.0, -0.5])
    table = np.subtract.outer(r, r) + 0.4 * ROCK_PAPER_SCISSORS
    parts = hodge.split(table)
    assert hodge.energy(parts.gradient) == pytest.approx(1.5)
    assert hodge.energy(parts.curl) == pytest.approx(0.48)
    assert hodge.energy(table) == pytest.approx(1.98)


@pytest.mark.parametrize("density", [1.0, 0.6, 0.35])
def test_against_explicit_least_squares(density: float) -> None:
    """Scores by lstsq over edges, curl by lstsq over triangle flows written as tables, harmonic the rest; orthogonal to both."""
    size = 7
    compared = np.triu(RNG.random((size, size)) < density, 1)
    compared = compared | compared.T
    table = skew(size) * compared
    edges = [(i, j) for i, j in itertools.combinations(range(size), 2) if compared[i, j]]
    flow = np.array([table[e] for e in edges])
    design = np.array([[float(v == i) - float(v == j) for v in range(size)] for i, j in edges])
    gradient = design @ np.linalg.lstsq(design, flow, rcond=None)[0]
    circles = []
    for i, j, k in itertools.combinations(range(size), 3):
        if compared[i, j] and compared[j, k] and compared[i, k]:
            circle = np.zeros((size, size))
            for a, b in ((i, j), (j, k), (k, i)):
                circle[a, b], circle[b, a] = 1.0, -1.0
            circles.append([circle[e] for e in edges])
    around = np.array(circles).reshape(-1, len(edges)).T
    curl = around @ np.linalg.lstsq(around, flow - gradient, rcond=None)[0] if around.size else np.zeros_like(flow)
    parts = hodge.split(table, compared)
    for part, expected in zip(parts[1:], (gradient, curl, flow - gradient - curl), strict=True):
        np.testing.assert_allclose([part[e] for e in edges], expected, atol=1e-10)
        np.testing.assert_array_equal(part, -part.T)
        assert not part[~compared].any()
    np.testing.assert_allclose(sum(parts[1:]), table, atol=1e-12)
    np.testing.assert_allclose(sum(shares(table, compared)), 1.0)


def test_a_batch_equals_its_tables() -> None:
    tables = np.stack([skew(4) for _ in range(3)])
    together = hodge.split(tables)
    for i, table in enumerate(tables):
        for a, b in zip(together, hodge.split(table), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-14)


@pytest.mark.parametrize("size", [3, 4, 8])
def test_cyclic_dimension_is_what_noise_has(size: int) -> None:
    graph = hodge.everywhere(size)
    assert hodge.cyclic_dimension(graph) == (size - 1) * (size - 2) // 2
    noise = np.triu(RNG.standard_normal((4000, size, size)), 1)
    noise = noise - np.swapaxes(noise, 1, 2)
    parts = hodge.split(noise)
    assert hodge.energy(parts.curl).sum() / hodge.energy(noise).sum() == pytest.approx((size - 2) / size, abs=0.02)


def test_cyclic_dimension_counts_parts_of_the_graph() -> None:
    two_rings = np.kron(np.eye(2, dtype=bool), ring(4)[1])
    assert hodge.cyclic_dimension(two_rings) == 2
    assert hodge.cyclic_dimension(np.zeros((3, 3), bool)) == 0
    tree = np.zeros((3, 3), bool)
    tree[0, 1:] = tree[1:, 0] = True
    assert hodge.cyclic_dimension(tree) == 0


@pytest.mark.parametrize("density", [1.0, 0.7, 0.35])
def test_without_matrices_over_pairs_the_parts_are_the_same(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    graph = np.triu(rng.random((14, 14)) < density, 1)
    graph = graph | graph.T
    tables = rng.standard_normal((3, 14, 14))
    tables = (tables - np.swapaxes(tables, -1, -2)) * graph
    small = hodge.split(tables, graph)
    np.testing.assert_allclose(hodge.gradient(tables, graph), small.gradient, atol=1e-9)
    monkeypatch.setattr(hodge, "LARGEST", 5)
    for part, other in zip(hodge.split(tables, graph), small, strict=True):
        np.testing.assert_allclose(part, other, atol=1e-6)
    if density < 0.5:
        assert (np.abs(small.harmonic) > 0.01).any()  # the graph has holes
