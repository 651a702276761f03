"""Comparisons that were not made or had no outcome: what the others imply about them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def completed(table: Floats) -> Floats:
    """Return a table of log-odds without gaps.

    A missing s_ij becomes r_i - r_j, with the ratings r that fit the known entries best in least squares: the gradient part of the Hodge
    decomposition on the graph of known pairs (Jiang, Lim, Yao and Ye 2011, Statistical ranking and combinatorial Hodge theory). Where no
    path of known pairs joins i and j nothing is implied, and s_ij is 0.

    Args:
        table: Log-odds of i over j, [K, K], skew-symmetric; NaN: missing.
    """
    known = np.isfinite(table)
    if known.all():
        return table
    ours = known & ~np.eye(len(table), dtype=bool)
    laplacian = np.diag(ours.sum(1)) - ours.astype(np.float64)
    ratings = np.linalg.pinv(laplacian) @ np.where(ours, table, 0.0).sum(1)
    joined = np.linalg.matrix_power(ours.astype(np.float64) + np.eye(len(table)), len(table)) > 0
    return np.where(known, table, np.where(joined, ratings[:, None] - ratings[None, :], 0.0))
