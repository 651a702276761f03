"""Errors of ratings: sandwich covariances, resamples of clusters, and what ranks and pairs they leave open.

Letters: `N` battles, `K` systems, `P` parameters, `B` draws, `C` clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.battle_votes import Votes
from prefrep.functional.outcomes import shares, terms
from prefrep.functional.ratings import NO_TIES, Fit, jacobian, log_odds, prior, quadratic

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Bools = NDArray[np.bool_]


def covariance(fit: Fit, votes: Votes) -> Floats:
    """Return the sandwich covariance of the parameters, H^-1 G H^-1 (Huber, 1967), where G adds up outer products of scores by cluster.

    With clusters, G is multiplied by C / (C - 1). A ridge counts as what it is, prior knowledge with its own variance: it is in H and in G.

    Args:
        fit: The estimates.
        votes: The battles of the fit, or groups of equal battles in one cluster (`ratings.grouped`).

    Returns:
        [P, P], zero for fixed parameters; ratings have sum 0.
    """
    model, free = fit.model, fit.free
    tie = np.maximum(model.parts(fit.theta)[4][votes.judge], NO_TIES)
    found = terms(log_odds(model, fit.theta, votes), tie, shares(votes.outcome, model.ties), model.ties)
    if votes.independent:
        products = (found.g**2, found.g * found.g_tie, found.g_tie**2)
        middle = quadratic(votes, model, fit.theta, *(votes.squared * each for each in products))
    else:
        scores = _by_cluster(fit, votes, found.g, found.g_tie)
        count = scores.shape[0]
        middle = (scores.T @ scores).toarray() * count / max(count - 1, 1)
    middle = (middle + np.diag(prior(model)))[np.ix_(free, free)]
    pinned = fit.hessian.copy()
    pinned[: model.systems, : model.systems] += 1.0
    inverse = np.linalg.inv(pinned[np.ix_(free, free)])
    whole = np.zeros_like(pinned)
    whole[np.ix_(free, free)] = inverse @ middle @ inverse
    k = model.systems
    centre = np.eye(model.size)
    centre[:k, :k] -= 1 / k
    return np.asarray(centre @ whole @ centre)


def _by_cluster(fit: Fit, votes: Votes, g: Floats, g_tie: Floats) -> csr_matrix[Any]:
    """Return the sums of scores of each cluster, a sparse [C, P]."""
    from scipy.sparse import coo_matrix

    model, rows = fit.model, len(votes.left)
    gamma, others = jacobian(model, fit.theta, votes)
    clusters = np.unique(votes.cluster, return_inverse=True)[1]
    at, value = votes.weight * g, votes.weight * g_tie
    tie_place = model.size - model.judges + votes.judge
    columns = [votes.left, votes.right, tie_place, *(np.full(rows, place) for place, _ in others)]
    values = [gamma * at, -gamma * at, value, *(column * at for _, column in others)]
    entries = (np.concatenate(values), (np.tile(clusters, len(columns)), np.concatenate(columns)))
    return coo_matrix(entries, shape=(int(clusters.max()) + 1, model.size)).tocsr()


def resampled(votes: Votes, generator: np.random.Generator) -> Floats:
    """Return factors of the weights, [N], of a resample of clusters, or of battles where all are independent (also those within groups)."""
    if votes.independent:
        number = np.rint(votes.weight**2 / np.where(votes.squared > 0, votes.squared, 1)).astype(np.int64)
        drawn = generator.multinomial(int(number.sum()), number / number.sum())
        return np.asarray(drawn / np.maximum(number, 1))
    clusters = np.unique(votes.cluster, return_inverse=True)[1]
    count = int(clusters.max()) + 1
    drawn = generator.multinomial(count, np.full(count, 1 / count))
    return drawn[clusters].astype(np.float64)


class Ranks(NamedTuple):
    """What is known of ranks, from 1.

    Attributes:
        low: Best rank that is not excluded, [K].
        high: Worst one, [K].
        better: Whether i is better than j, with all pairs tested at once, [K, K].
    """

    low: Codes
    high: Codes
    better: Bools


def ranks(ratings: Floats, deviations: Floats, level: float = 0.95) -> Ranks:
    """Return ranks as intervals, and the pairs that differ.

    A system's rank is at least 1 plus the number of systems that are better for sure (Mogstad, Romano, Shaikh and Wilhelm, Review of
    Economic Studies 91, 2024). `low` and `high` hold for one system at a time: its differences to all others are tested at once, by the
    distribution of the largest studentised deviation. `better` tests all pairs at once, so that the chance of any false one is 1 - level.

    Args:
        ratings: [K].
        deviations: Draws of estimate minus truth: of a normal distribution, or resamples minus the estimate, [B, K].
        level: Confidence level.
    """
    size = len(ratings)
    spread = np.cov(deviations.T).reshape(size, size)
    variance = np.diag(spread)[:, None] + np.diag(spread) - 2 * spread
    errors = np.sqrt(np.maximum(variance, 0))
    np.fill_diagonal(errors, np.inf)
    errors[errors < 1e-12] = np.inf  # a pair without error has no test
    largest, critical = np.zeros(len(deviations)), np.zeros(size)
    for i in range(size):
        own = (np.abs(deviations[:, [i]] - deviations) / errors[i]).max(1)
        critical[i] = np.quantile(own, level)
        largest = np.maximum(largest, own)
    gap = (ratings[:, None] - ratings) / errors
    low = 1 + (gap < -critical[:, None]).sum(1)
    high = size - (gap > critical[:, None]).sum(1)
    return Ranks(low, high, gap > np.quantile(largest, level))


def normal_draws(spread: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Return draws of a normal distribution with mean 0, [B, K], also where the covariance is singular.

    Args:
        spread: Covariance, [K, K].
        draws: B.
        generator: Random numbers.
    """
    values, vectors = np.linalg.eigh((spread + spread.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(generator.standard_normal((draws, len(spread))) @ root.T)
