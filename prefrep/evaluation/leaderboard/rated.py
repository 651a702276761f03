"""Ratings of systems with intervals, ranks and judges, from battles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.battles import Battles
from prefrep.console import progress
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.leaderboard.settings import Cluster, Settings, Weigh
from prefrep.evaluation.leaderboard.told import results_of, unbounded_notes
from prefrep.functional import dominance, rating_errors, ratings
from prefrep.functional.battle_votes import Votes, cells_of, grouped
from prefrep.functional.ratings import Fit, Model
from prefrep.metrics import intervals
from prefrep.writers import leave

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
PRIOR_SD = 3.0  # nats: of the prior that keeps systems which never lose finite; 2:1 odds are 0.7 nats, 20:1 are 3
ENOUGH_PROMPTS = 50  # a sandwich of fewer clusters than this has no room for the ratings of many systems
_RANK_DRAWS = 2000
_WILD = 8.0  # nats, or times as sharp: no judge is like that, so the votes set no limit
_SINGULAR = 1e-10  # least eigenvalue of the information beside the largest
_EXACT = 1e-6  # nats: a standard error that is none
_CLOSE = 1e-5  # nats: a resample lies within 1/200 of a standard error of its optimum
_FAINT = 1e-3  # ridge of resamples, in which a system can happen never to lose; a variance of 1000 nats^2


class Rated(NamedTuple):
    """A leaderboard before it is written.

    Args:
        battles: What was rated: without those whose features are missing.
        votes: The battles as numbers, one row each.
        settings: With the choices that `auto` left open.
        fit: The estimates.
        spread: Covariance of the ratings, [K, K].
        deviations: Draws of estimate minus truth, [B, K].
        results: The part of `results.json` that follows.
    """

    battles: Battles
    votes: Votes
    settings: Settings
    fit: Fit
    spread: Floats
    deviations: Floats
    results: dict[str, Any]


def items(battles: Battles) -> Codes:
    """Return the number of the pair of answers of each battle, [N]; battles with unknown prompts are alone, with numbers of their own."""
    size = len(battles.systems)
    low, high = np.minimum(battles.left, battles.right), np.maximum(battles.left, battles.right)
    codes = np.unique(battles.prompt * size * size + low * size + high, return_inverse=True)[1]
    return np.where(battles.prompt >= 0, codes, codes.max(initial=0) + 1 + np.arange(len(codes)))


def clusters(battles: Battles, cluster: Cluster) -> tuple[Codes, Cluster]:
    """Return the cluster of each battle, [N], -1 everywhere if all are independent; and the choice."""
    known = battles.prompt >= 0
    if cluster == "auto":
        cluster = "none" if not known.any() else "prompt" if len(np.unique(battles.prompt[known])) >= ENOUGH_PROMPTS else "item"
    if cluster != "none" and not known.any():
        raise ConfigError(f"--cluster {cluster} needs prompts, and no column names them; name one with --prompt, or set --cluster none")
    if cluster == "none":
        return np.full(len(battles), -1), cluster
    codes = items(battles) if cluster == "item" else np.where(known, battles.prompt, len(battles.prompts) + np.arange(len(battles)))
    if len(np.unique(codes)) == len(codes):  # each battle is a cluster
        return np.full(len(battles), -1), cluster
    return codes, cluster


def styled(battles: Battles) -> tuple[Floats, list[str]]:
    """Return features as differences in units of their standard deviation, [N, F], and their names.

    The difference of counts a and b is (a - b) / (a + b), as LMArena has it, which is 1 where only the left answer has any. It is not
    centred, so that swapping the answers changes its sign.
    """
    columns = []
    for name, values in battles.features.items():
        total = values.sum(1)
        gap = np.divide(values[:, 0] - values[:, 1], total, out=np.zeros(len(total)), where=total > 0)
        deviation = math.sqrt(float(np.mean(gap**2)))
        if deviation == 0:
            raise ConfigError(f"--style {name}: both answers have as much of it in every battle; leave it out")
        columns.append(gap / deviation)
    return (np.stack(columns, axis=1) if columns else np.zeros((len(battles), 0))), list(battles.features)


def weighed(battles: Battles, by: Weigh) -> Floats:
    """Return weights, [N], with the same sum for each prompt, category or judge."""
    if by == "none":
        return battles.weight
    codes = getattr(battles, by)
    names = {"prompt": battles.prompts, "category": battles.categories, "judge": battles.judges}[by]
    if (codes < 0).any() or not any(names):
        raise ConfigError(f"--weigh {by}: some battles name no {by}; name its column, or set --weigh none")
    totals = np.bincount(codes, battles.weight)
    there = totals > 0
    return np.asarray(battles.weight * battles.weight.sum() / there.sum() / totals[codes])


def votes_of(battles: Battles, settings: Settings) -> tuple[Votes, Settings]:
    """Return battles as numbers, and the settings with the cluster that was chosen."""
    weight, (cluster, chosen) = weighed(battles, settings.weigh), clusters(battles, settings.cluster)
    features, _ = styled(battles)
    found = Votes(
        battles.left, battles.right, battles.outcome, battles.first, battles.judge, weight, weight**2, cluster, features
    )  # fmt: skip
    return found, replace(settings, cluster=chosen)


def evaluate(battles: Battles, settings: Settings) -> Rated:
    """Rate systems.

    Args:
        battles: The battles.
        settings: The formula.

    Raises:
        DataError: There are fewer than two systems.
        ConfigError: A choice does not fit the data.
    """
    notes = []
    missing = np.zeros(len(battles), dtype=bool)
    for values in battles.features.values():
        missing |= ~np.isfinite(values).all(1)
    if missing.any():
        notes.append(f"{missing.sum():,} battles lack a feature of style and are left out")
        battles = battles.take(~missing)
    battles = battles.take(battles.weight > 0).met()
    if len(battles.systems) < 2 or not len(battles):
        raise DataError("a leaderboard needs battles of two systems or more")
    votes, settings = votes_of(battles, settings)
    size, judges = len(battles.systems), len(battles.judges)
    won = won_by(votes, size)
    compared = dominance.comparable(won)
    ridge = settings.ridge
    if ridge == 0 and (compared.unbounded.any() or compared.component.max() > 0):
        ridge = 1 / PRIOR_SD**2
        notes += unbounded_notes(battles.systems, won, compared, ridge)
    settings = replace(settings, ridge=ridge)
    model = Model(
        size, judges, votes.features.shape[1], settings.ties, settings.order, settings.sharpness and judges > 1, settings.ridge
    )  # fmt: skip
    rows, _ = grouped(votes)
    fit = ratings.fit(rows, model)
    if settings.ridge == 0 and (not fit.converged or _unlimited(fit)):
        settings = replace(settings, ridge=1 / PRIOR_SD**2)
        notes.append(
            "a judge has too few votes for an order effect or a sharpness of its own, or its votes cannot tell them from ratings (a system "
            "that always stands first): all parameters have normal priors with standard "
            f"deviation {PRIOR_SD:g} nats"
        )
        model = replace(model, ridge=settings.ridge)
        fit = ratings.fit(rows, model)
    if not fit.converged:
        notes.append("the fit did not converge: leave out an option, or judges with few votes; the numbers below may be wrong")
    whole = rating_errors.covariance(fit, rows)
    if np.diag(whole)[:size].min() < _EXACT**2:
        notes.append(
            "the verdicts are exactly those of the ratings (all are ties, or there are no more battles than ratings), so that "
            "the intervals have no width: they say nothing about the error, nor do the ranks; more battles are needed"
        )
    generator = intervals.stream(settings.seed, "ratings")
    draws = None
    if settings.interval == "bootstrap":
        thetas = (each.theta for each in resamples(fit, rows, settings.resamples, generator))
        draws = np.array([np.where(fit.free, np.maximum(theta, ratings.NO_TIES), 0.0) for theta in thetas])
        deviations = draws[:, :size] - fit.ratings
    else:
        deviations = rating_errors.normal_draws(whole[:size, :size], _RANK_DRAWS, generator)
    results = results_of(battles, votes, settings, fit, whole, draws, deviations, won)
    results["comparable"] = {
        "components": [[battles.systems[i] for i in np.flatnonzero(compared.component == c)] for c in range(compared.component.max() + 1)],
        "without_a_finite_rating": [battles.systems[i] for i in np.flatnonzero(compared.unbounded)],
    }
    results["notes"] = notes
    return Rated(battles, votes, settings, fit, whole[:size, :size], deviations, results)


def _unlimited(fit: Fit) -> bool:
    """Return whether the votes set no limit to an order effect or a sharpness.

    It is wild, or its information is that of such a value, or it cannot be told from ratings, so that the information is singular.
    """
    size = fit.model.systems
    pinned = fit.hessian.copy()
    pinned[:size, :size] += 1.0  # the mean of the ratings, which is 0
    scales = np.linalg.eigvalsh(pinned[np.ix_(fit.free, fit.free)])
    if scales[0] < _SINGULAR * scales[-1]:
        return True
    known, free = (fit.model.parts(each) for each in (np.diag(fit.hessian), fit.free.astype(np.float64)))
    values, information = (np.concatenate([each[1], each[3]]) for each in (fit.model.parts(fit.theta), known))
    chosen = np.concatenate([free[1], free[3]]) > 0
    return bool((chosen & ((np.abs(values) > _WILD) | (information < _WILD**-2))).any())


def won_by(votes: Votes, size: int) -> Floats:
    """Return the weight of wins of i over j, with a tie as half a win of each, [K, K]."""
    pairs = votes.left * size + votes.right
    left = np.bincount(pairs, votes.weight * votes.outcome, size * size).reshape(size, size)
    right = np.bincount(pairs, votes.weight * (1 - votes.outcome), size * size).reshape(size, size)
    return np.asarray(left + right.T)


def resamples(fit: Fit, rows: Votes, count: int, generator: np.random.Generator) -> Iterator[Fit]:
    """Yield fits of resampled clusters."""
    model = replace(fit.model, ridge=max(fit.model.ridge, _FAINT))
    cells = cells_of(rows, model.ties)
    for _ in progress(range(count), "resamples", "fits"):
        leave()
        yield ratings.fit(cells.weighed(rating_errors.resampled(rows, generator)), model, fit.theta, _CLOSE)
