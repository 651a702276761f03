"""The Hodge split of a skew table: what one number per response explains, what runs around triangles, what runs around longer holes.

HodgeRank (Jiang, Lim, Yao and Ye, Mathematical Programming 127, 2011, sections 3 to 5), with a weight of 1 for pairs that were compared and
0 for the others. Letters: `K` responses to a prompt, `E` compared pairs, `T` triangles of compared pairs.

    table = gradient + curl + harmonic        (orthogonal: energies add up)

* gradient: r_i - r_j with the least-squares scores r: all that a Bradley-Terry model could say.
* curl: what triangles i, j, k with s_ij + s_jk + s_ki != 0 generate: local cycles.
* harmonic: cycles around holes that no triangle of compared pairs fills. A complete table has none.

Energy without a sign says nothing about cycles of verdicts: a hard order of three (all entries 1 or -1) has 1/9 of its energy in the curl,
because the distances 1, 1, 1 do not add up, and yet no cyclic triple.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Hodge(NamedTuple):
    """The three parts of a table, or of a batch of tables with the same compared pairs.

    Attributes:
        scores: r, [.., K], of mean 0 in each connected part.
        gradient: [.., K, K], r_i - r_j where i and j were compared.
        curl: [.., K, K].
        harmonic: [.., K, K].
    """

    scores: Floats
    gradient: Floats
    curl: Floats
    harmonic: Floats


class _Space(NamedTuple):
    """Edges of a graph and the projections of edge flows: `rows[e] < columns[e]`; operators act on [.., E]."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    fit: Floats  # [K, E]: least-squares scores of a flow
    gradient: Floats  # [E, E]
    curl: Floats | None  # [E, E]; None: all that is not gradient


def everywhere(size: int) -> Bools:
    """The graph in which all of `size` responses were compared, [K, K]."""
    return ~np.eye(size, dtype=bool)


def split(table: Floats, compared: Bools | None = None) -> Hodge:
    """Splits skew tables.

    Args:
        table: s, [.., K, K], skew-symmetric; entries that were not compared are not looked at.
        compared: Which pairs were compared, [K, K], symmetric; None: all.

    Returns:
        The parts; their sum is the table.
    """
    size = table.shape[-1]
    graph = everywhere(size) if compared is None else compared
    space = _space(graph.tobytes(), size)
    flow = np.asarray(table, dtype=np.float64)[..., space.rows, space.columns]
    gradient = flow @ space.gradient
    rest = flow - gradient
    curl = rest if space.curl is None else rest @ space.curl
    return Hodge(flow @ space.fit.T, *(_table(part, space, size) for part in (gradient, curl, rest - curl)))


def energy(table: Floats) -> Floats:
    """The energy of skew tables, the sum of s_ij^2 over pairs: [.., K, K] -> [..], squared units of the table."""
    return np.asarray(np.square(table).sum((-2, -1)) / 2)


def cyclic_dimension(compared: Bools) -> int:
    """Dimensions that are left when the gradient is taken away: E - K + number of connected parts, 0 for a tree.

    A table of independent noise has the share cyclic_dimension / E of its energy there; (K - 2) / K, if it is complete.

    Args:
        compared: [K, K], symmetric.
    """
    space = _space(compared.tobytes(), compared.shape[-1])
    return len(space.rows) - round(float(np.trace(space.gradient)))


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


def _table(flow: Floats, space: _Space, size: int) -> Floats:
    table = np.zeros((*flow.shape[:-1], size, size))
    table[..., space.rows, space.columns] = flow
    return table - np.swapaxes(table, -1, -2)
