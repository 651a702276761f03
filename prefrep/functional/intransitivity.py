"""Measures of intransitivity of a skew table: cyclic triples, spectrum and effective rank.

Letters: `K` responses to a prompt. An entry s_ij > 0 means that i beats j; 0 is a tie if the two were compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.hodge import everywhere

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
Reals = NDArray[np.floating[Any]]

_EXACT = 4096  # responses up to which a row of K numbers up to K adds up exactly in float32, 24 bits


class Triples(NamedTuple):
    """Counts of the triples whose three pairs were all compared, each [..].

    Attributes:
        cyclic: i beats j beats k beats i.
        ordered: Three verdicts that form an order.
        tied_cyclic: One or two ties that no weak order allows: i beats j, j beats or ties k, k beats or ties i.
        tied: The other triples with ties.
    """

    cyclic: Counts
    ordered: Counts
    tied_cyclic: Counts
    tied: Counts


def triples(table: Floats, compared: Bools | None = None) -> Triples:
    """Count cyclic triples (Kendall and Babington Smith, Biometrika 31, 1940), with ties counted separately.

    A quarter of all triples is cyclic if verdicts are coin tosses, and none in a strict order.

    Args:
        table: s, [.., K, K], skew-symmetric.
        compared: Whether a pair was compared, [K, K], symmetric; None: all.

    Example:
        >>> cycle = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
        >>> int(triples(cycle).cyclic), int(triples(cycle).ordered)
        (1, 0)
    """
    size = table.shape[-1]
    graph = everywhere(size) if compared is None else compared
    kind: type[np.floating[Any]] = np.float32 if size <= _EXACT else np.float64
    arcs: Reals = graph.astype(kind)
    signs: Reals = np.sign(table).astype(kind) * arcs
    strict: Reals = np.abs(signs)
    # Directed triangles are traces of cubes. With the symmetric G (compared), A (decided) and the skew S (signs), wins are (A + S) / 2, and
    # odd powers of S have no trace, so that the products G G, A A and S S give all counts. X @ X.T takes half the time of X @ Y.
    turned = -_squared(signs)
    decided_in_decided, decided_in_turned, turned_all = (
        _inside(squared := _squared(strict), strict),
        _inside(turned, strict),
        _inside(turned, arcs),
    )
    all_in_all = _inside(around := _squared(arcs), arcs)
    cyclic = (decided_in_decided + 3 * decided_in_turned) / 24
    decided, every = decided_in_decided / 6, all_in_all / 6
    all_in_decided, decided_in_all = _inside(around, strict), _inside(squared, arcs)
    # A triangle of wins and ties is closed in one direction if it has a win, and in both if it has none: of (G - A / 2) + S / 2 and G - A.
    ties = all_in_all - 3 * all_in_decided + 3 * decided_in_all - decided_in_decided
    loose = all_in_all - 1.5 * all_in_decided + 0.75 * decided_in_all - decided_in_decided / 8
    loose = loose + 0.75 * turned_all - 0.375 * decided_in_turned
    tied_cyclic = (loose - ties) / 3 - cyclic
    counts = (cyclic, decided - cyclic, tied_cyclic, every - decided - tied_cyclic)
    return Triples(*(np.rint(each).astype(np.int64) for each in counts))


def _squared(table: Reals) -> Reals:
    """Return X X', [.., K, K]."""
    return np.asarray(table @ np.swapaxes(table, -1, -2))


def _inside(values: Reals, mask: Reals) -> Floats:
    """Return the sum of values times a mask, [..]: rows in their own precision, and their sum in float64."""
    return np.asarray(np.einsum("...ij,...ij->...i", values, mask).sum(-1, dtype=np.float64))


def condorcet_winner(table: Floats, compared: Bools | None = None) -> int | None:
    """Return the response that beats every other one; None if there is none, or if a pair with it was not compared.

    Args:
        table: s, [K, K], skew-symmetric.
        compared: Whether a pair was compared, [K, K], symmetric; None: all.

    Example:
        >>> rewards = np.array([0.0, 2.0, 1.0])
        >>> condorcet_winner(rewards[:, None] - rewards)
        1
    """
    graph = everywhere(len(table)) if compared is None else compared
    winners = np.flatnonzero(((table > 0) & graph).sum(1) == len(table) - 1)
    return int(winners[0]) if len(winners) else None


def spectrum(table: Floats) -> Floats:
    """Return the block scales of the canonical form of a complete table, in descending order: [.., K, K] -> [.., floor(K/2)].

    Eigenvalues of a skew-symmetric matrix are pairs +-i lambda; these are the lambda, in units of the table. The energy of the table is the
    sum of their squares, and a general preference model of dimension D represents tables with at most D/2 of them. A transitive table
    r_i - r_j has one (rank 2), and so has rock, paper, scissors: the spectrum measures complexity, not intransitivity.
    """
    values = np.linalg.svd(np.asarray(table, dtype=np.float64), compute_uv=False)
    return values[..., 0::2][..., : table.shape[-1] // 2]


def effective_rank(scales: Floats) -> float:
    """Return the effective rank (Roy and Vetterli, EUSIPCO 2007), exp of the entropy of the singular values; 2 for one block, 0 for none.

    Args:
        scales: See `spectrum`; each stands for two singular values.
    """
    shares = np.repeat(scales, 2) / max(2 * scales.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def dimension(scales: Floats, share: float) -> int:
    """Return the smallest even dimension whose best approximation (`skew.embed_matrix`) keeps a share of the energy.

    Args:
        scales: See `spectrum`.
        share: Share of the energy; 1 - 1e-9 gives the rank.
    """
    energies = np.cumsum(np.square(scales))
    if not len(energies) or energies[-1] == 0:
        return 0
    return 2 * (int(np.argmax(energies >= share * energies[-1])) + 1)
