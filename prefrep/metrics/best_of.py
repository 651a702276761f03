"""Choosing among K responses of known quality: which one a model puts first, and how that compares with chance and with an oracle."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pair_wins(gold: Floats, margins: Floats) -> Floats:
    """Return a verdict for every pair of a better and a worse response that was compared, [P]: 1 if the better one scores strictly higher.

    Args:
        gold: Quality of each response, [K].
        margins: Log-odds of i over j, [K, K]; NaN for pairs that were not compared.

    Returns:
        The verdicts in the order of i, then j.
    """
    better = (gold[:, None] > gold[None, :]) & np.isfinite(margins)
    return np.asarray(margins[better] > 0, dtype=np.float64)


def strengths(margins: Floats) -> Floats:
    """Return the mean log-odds of each response over the others, [K, K] -> [K]; 0 for a single response."""
    others = ~np.eye(len(margins), dtype=bool)
    return np.asarray(np.where(others, margins, 0.0).sum(axis=1) / max(len(margins) - 1, 1), dtype=np.float64)


def value_of_choice(gold: Floats, scores: Floats) -> float:
    """Return the quality of the response with the highest score, [K], [K] -> a number; responses that share the top count alike."""
    return float(gold[scores == scores.max()].mean())


def area_under_roc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    Args:
        scores: One score per response, [n].
        positive: Whether it is correct, [n].
        weights: How often each counts, [n]; None: once.

    Returns:
        The area; NaN without positives or without negatives.

    References:
        Hanley and McNeil 1982, The meaning and use of the area under a ROC curve.
    """
    values, hits = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    return sorted_area(counts[order] * hits[order], counts[order] * ~hits[order], group_starts(values[order]))


def group_starts(ordered: Floats) -> NDArray[np.intp]:
    """Return where each group of equal values begins in an ascending array, [n] -> [g]."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def sorted_area(positives: Floats, negatives: Floats, starts: NDArray[np.intp]) -> float:
    """Return `area_under_roc` of weights [n] that are sorted by score, with the starts of groups of equal scores."""
    up, down = np.add.reduceat(positives, starts), np.add.reduceat(negatives, starts)
    total = up.sum() * down.sum()
    return float((up * (np.cumsum(down) - down / 2)).sum() / total) if total else float("nan")
