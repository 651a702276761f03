"""Do judges, or categories of prompts, differ in sharpness only, or do they rank otherwise? A likelihood-ratio test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.console import progress
from prefrep.evaluation.leaderboard.rated import Rated
from prefrep.functional import rankings, rating_nulls, ratings
from prefrep.functional.battle_votes import Votes
from prefrep.functional.groups import probabilities
from prefrep.metrics import intervals
from prefrep.writers import leave

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

ENOUGH = 3  # battles a system that a group needs for ratings of its own
_RIDGE = 1e-2  # groups are small, and in some a system never loses; a variance of 100 nats^2


def evaluate(rated: Rated, what: str, codes: Codes, names: tuple[str, ...], draws: int) -> dict[str, Any] | None:
    """Test whether groups of battles have the same ratings up to sharpness.

    Args:
        rated: The leaderboard. Ties are half wins here, whatever its formula.
        what: Name of the groups: `judges` or `categories`.
        codes: Group of each battle, [N].
        names: Names of the groups.
        draws: Samples of the null: one rating per system, with a sharpness and an order effect for each group.

    Returns:
        `groups` with sharpness and their own order of systems (a tau of None: a group that ties all); `likelihood_ratio`, its null and `p`;
        None: fewer than two groups have enough battles.
    """
    votes, battles = rated.votes, rated.battles
    size = len(battles.systems)
    count = np.bincount(codes, minlength=len(names))
    kept = np.flatnonzero(count >= ENOUGH * size)
    if len(kept) < 2:
        return None
    rows = np.isin(codes, kept)
    place = np.full(len(names), -1)
    place[kept] = np.arange(len(kept))
    votes = votes.take(rows)._replace(judge=place[codes[rows]])
    model = ratings.Model(size, len(kept), votes.features.shape[1], "half", rated.settings.order, True, max(rated.settings.ridge, _RIDGE))
    common = ratings.fit(votes, model)
    own = _own(votes, model, None)
    observed = _ratio(common, own)
    eta = ratings.log_odds(model, common.theta, votes)
    who = rating_nulls.answers(votes.left, votes.right, battles.prompt[rows], size)
    how = rating_nulls.dependence(probabilities(eta), votes.outcome, votes.judge, len(kept), who)
    generator = intervals.stream(rated.settings.seed, f"groups {what}")
    drawn = np.zeros(draws)
    for n in progress(range(draws), f"{what}: one order of systems", "draws"):
        leave()
        new = votes._replace(outcome=rating_nulls.redrawn(eta, votes.judge, who, how, generator))
        drawn[n] = _ratio(ratings.fit(new, model, common.theta), _own(new, model, own))
    return {
        "of": what,
        "groups": [
            {
                "name": names[code],
                "battles": int(count[code]),
                "sharpness": float(common.sharpness[i]),
                "order": float(common.order[i]),
                "first": battles.systems[int(own[i].ratings.argmax())],
                "kendall_tau_with_all": None if np.isnan(tau := rankings.kendall_tau(own[i].ratings, common.ratings)) else tau,
            }
            for i, code in enumerate(kept)
        ],
        "left_out": [names[code] for code in np.flatnonzero((count > 0) & (count < ENOUGH * size))],
        "likelihood_ratio": {
            "observed": observed,
            "mean": float(drawn.mean()),
            "ci95": list(intervals.percentile_interval(drawn)),
            "p": float((1 + (drawn >= observed - 1e-9).sum()) / (1 + draws)),
            "draws": draws,
        },
    }


def _own(votes: Votes, model: ratings.Model, start: list[ratings.Fit] | None) -> list[ratings.Fit]:
    """Fit each group alone."""
    alone = replace(model, judges=1, sharpness=False)
    found = []
    for group in range(model.judges):
        mine = votes.judge == group
        part = votes.take(mine)._replace(judge=np.zeros(int(mine.sum()), dtype=np.int64))
        found.append(ratings.fit(part, alone, None if start is None else start[group].theta))
    return found


def _ratio(common: ratings.Fit, own: list[ratings.Fit]) -> float:
    return 2 * (common.nll - sum(each.nll for each in own))
