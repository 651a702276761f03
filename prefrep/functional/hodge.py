"""Hodge decomposition of a skew table: what one score per response explains, cycles of triangles, and cycles around longer holes.

HodgeRank (Jiang, Lim, Yao and Ye, Mathematical Programming 127, 2011, sections 3 to 5), with weight 1 for compared pairs and 0 for
the others. Letters: `K` responses to a prompt, `E` compared pairs, `T` triangles of compared pairs.

    table = gradient + curl + harmonic        (orthogonal: energies add up)

* gradient: r_i - r_j with the least-squares scores r, the part that a Bradley-Terry model can represent.
* curl: the span of triangles i, j, k with s_ij + s_jk + s_ki != 0, local cycles.
* harmonic: cycles around holes that no triangle of compared pairs fills. A complete table has none.

Energy alone does not show cycles of verdicts: a hard order of three (all entries 1 or -1) has 1/9 of its energy in the curl, because the
distances 1, 1, 1 do not add up, but no cyclic triple.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LARGEST = 40  # responses up to which projections of flows are kept as matrices, [E, E]; of more they take gigabytes


class Hodge(NamedTuple):
    """Parts of a table, or of a batch of tables with the same compared pairs.

    Attributes:
        scores: r, [.., K], with mean 0 in each connected component.
        gradient: [.., K, K], r_i - r_j for compared pairs.
        curl: [.., K, K].
        harmonic: [.., K, K].
    """

    scores: Floats
    gradient: Floats
    curl: Floats
    harmonic: Floats


class _Space(NamedTuple):
    """Edges of a graph, `rows[e] < columns[e]`, and projections of edge flows [.., E]."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    fit: Floats  # [K, E]: least-squares scores of a flow
    gradient: Floats  # [E, E]
    curl: Floats | None  # [E, E]; None: everything except the gradient


def everywhere(size: int) -> Bools:
    """Return the complete graph of compared pairs, [K, K], for K = `size`."""
    return ~np.eye(size, dtype=bool)


def split(table: Floats, compared: Bools | None = None) -> Hodge:
    """Decompose skew tables.

    Args:
        table: s, [.., K, K], skew-symmetric; entries of pairs that were not compared are ignored.
        compared: Whether a pair was compared, [K, K], symmetric; None: all.

    Returns:
        Parts that add up to the table.

    Example:
        >>> rewards = np.array([0.0, 2.0, 1.0])
        >>> cycle = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
        >>> parts = split(rewards[:, None] - rewards + cycle)
        >>> np.allclose(parts.gradient, rewards[:, None] - rewards), np.allclose(parts.curl, cycle)
        (True, True)
    """
    size = table.shape[-1]
    graph = everywhere(size) if compared is None else compared
    if size > LARGEST:
        return _split_large(np.asarray(table, dtype=np.float64) * graph, graph)
    space = _space(graph.tobytes(), size)
    flow = np.asarray(table, dtype=np.float64)[..., space.rows, space.columns]
    gradient = flow @ space.gradient
    rest = flow - gradient
    curl = rest if space.curl is None else rest @ space.curl
    return Hodge(flow @ space.fit.T, *(_table(part, space, size) for part in (gradient, curl, rest - curl)))


def energy(table: Floats) -> Floats:
    """Return the energy of skew tables, the sum of s_ij^2 over pairs: [.., K, K] -> [..], in squared units of the table."""
    return np.asarray(np.square(table).sum((-2, -1)) / 2)


def cyclic_dimension(compared: Bools) -> int:
    """Return the dimension of the complement of the gradient: E - K + number of connected components, 0 for a tree.

    Independent noise has the share cyclic_dimension / E of its energy there; (K - 2) / K in a complete table.

    Args:
        compared: [K, K], symmetric.
    """
    from scipy.sparse.csgraph import connected_components

    return int(np.triu(compared, 1).sum()) - len(compared) + int(connected_components(compared, directed=False)[0])


@lru_cache(maxsize=256)
def _space(graph: bytes, size: int) -> _Space:
    compared = np.frombuffer(graph, dtype=bool).reshape(size, size)
    rows, columns = np.nonzero(np.triu(compared, 1))
    number = {(int(i), int(j)): e for e, (i, j) in enumerate(zip(rows, columns, strict=True))}
    differences = np.zeros((len(rows), size))
    differences[np.arange(len(rows)), rows] = 1.0
    differences[np.arange(len(rows)), columns] = -1.0
    fit: Floats = np.linalg.pinv(differences, rcond=1e-10).astype(np.float64)
    gradient = differences @ fit
    if len(rows) == size * (size - 1) // 2:
        return _Space(rows, columns, fit, gradient, None)
    corners = [(i, j, k) for i, j, k in combinations(range(size), 3) if compared[i, j] and compared[j, k] and compared[i, k]]
    around = np.zeros((len(corners), len(rows)))
    for t, (i, j, k) in enumerate(corners):
        around[t, [number[i, j], number[j, k], number[i, k]]] = 1.0, 1.0, -1.0
    return _Space(rows, columns, fit, gradient, np.linalg.pinv(around, rcond=1e-10) @ around)


def gradient(table: Floats, compared: Bools | None = None) -> Floats:
    """Return the gradient part alone, [.., K, K], which needs no triangles: the Laplacian of the graph gives the scores.

    Args:
        table: s, [.., K, K], skew-symmetric.
        compared: Whether a pair was compared, [K, K], symmetric; None: all.
    """
    graph = everywhere(table.shape[-1]) if compared is None else compared
    scores = _scores(np.asarray(table, dtype=np.float64) * graph, graph)
    return np.asarray((scores[..., :, None] - scores[..., None, :]) * graph)


def _scores(table: Floats, graph: Bools) -> Floats:
    """Return least-squares scores with mean 0 in each component, [.., K]."""
    return np.asarray(table.sum(-1) @ _inverse(graph.tobytes(), len(graph)))


@lru_cache(maxsize=8)  # draws of a null share a graph
def _inverse(graph: bytes, size: int) -> Floats:
    """Return the pseudo-inverse of the Laplacian, [K, K]."""
    compared = np.frombuffer(graph, dtype=bool).reshape(size, size)
    laplacian = np.diag(compared.sum(1)) - compared
    return np.asarray(np.linalg.pinv(laplacian.astype(np.float64), rcond=1e-10, hermitian=True))


def _split_large(table: Floats, graph: Bools) -> Hodge:
    """Decompose without matrices over pairs: the curl is the projection onto the range of the Laplacian of triangles, by MINRES.

    That operator, on a flow F, is F_ij times the number of common neighbours of i and j, plus the flows over these: matrix products [K, K].
    A complete graph has no harmonic part.
    """
    scores = _scores(table, graph)
    potential = (scores[..., :, None] - scores[..., None, :]) * graph
    rest = table - potential
    if (graph == everywhere(len(graph))).all():
        return Hodge(scores, potential, rest, np.zeros_like(rest))
    flat = rest.reshape(-1, *graph.shape)
    curl = np.stack([_curl(each, graph) for each in flat]).reshape(rest.shape) if len(flat) else rest
    return Hodge(scores, potential, curl, rest - curl)


def _curl(flow: Floats, graph: Bools) -> Floats:
    from scipy.sparse.linalg import LinearOperator, minres

    rows, columns = np.nonzero(np.triu(graph, 1))
    arcs = graph.astype(np.float64)
    common = arcs @ arcs

    def around(values: Floats) -> Floats:
        table = np.zeros_like(arcs)
        table[rows, columns] = values.ravel()
        table -= table.T
        product = table @ arcs
        # The triangle i, j, k has the flow s_ij + s_jk + s_ki; summed over k, arcs to k masked by the graph.
        return np.asarray((common * table - product + product.T)[rows, columns])

    operator = LinearOperator((len(rows), len(rows)), matvec=around, dtype=np.float64)
    wanted = flow[rows, columns]
    solved, _ = minres(operator, around(wanted), rtol=1e-10, maxiter=1000)
    found = np.zeros_like(arcs)
    # L x = L f leaves f - x in the kernel of L, which is the harmonic part, since f has no gradient.
    found[rows, columns] = solved
    return np.asarray(found - found.T)


def _table(flow: Floats, space: _Space, size: int) -> Floats:
    table = np.zeros((*flow.shape[:-1], size, size))
    table[..., space.rows, space.columns] = flow
    return table - np.swapaxes(table, -1, -2)
