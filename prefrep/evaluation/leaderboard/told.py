"""What a leaderboard says: `results.json` from a fit, what was assumed, and what the data leave open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.battles import Battles
from prefrep.evaluation.leaderboard.settings import MEAN, Settings
from prefrep.functional import dominance, rating_errors
from prefrep.functional.battle_votes import Votes
from prefrep.functional.outcomes import expected_shares
from prefrep.functional.ratings import NO_TIES, Fit, log_odds
from prefrep.metrics import intervals

Floats = NDArray[np.float64]

SHOWN = 8  # names in a sentence


def reading_notes(counts: Mapping[str, int]) -> list[str]:
    """Return what became of the rows of the files, as sentences."""
    words = {
        "no verdict": "{:,} of {:,} rows have no verdict; they are left out, and are no ties",
        "same system": "{:,} of {:,} rows have one system on both sides and are left out",
        "both bad": "{:,} of {:,} rows call both answers bad, which counts as a tie",
    }
    found = [text.format(counts[name], counts["rows"]) for name, text in words.items() if counts.get(name)]
    if counts.get("systems left out"):
        found.append(f"{counts['systems left out']:,} systems are in no row with a verdict and are left out")
    if counts.get("judges merged"):
        found.append(f"{counts['judges merged']:,} judges are one here, a crowd; --judge COLUMN gives each a sharpness and an order effect")
    return found


def unbounded_notes(systems: Sequence[str], won: Floats, compared: dominance.Comparable, ridge: float) -> Iterator[str]:
    """Yield which ratings the battles do not determine, as sentences.

    Args:
        systems: Names.
        won: Weight of wins of i over j, [K, K].
        compared: What can be compared.
        ridge: Weight of the prior that keeps ratings finite.
    """
    groups = compared.component.max() + 1
    prior = f"ratings have a normal prior with standard deviation {ridge**-0.5:.3g} nats, which keeps them finite"
    if groups > 1:
        sizes = ", ".join(map(str, np.bincount(compared.component)))
        yield f"{groups} groups of systems never met ({sizes} systems): ratings of different groups cannot be compared; {prior}"
    undefeated, winless = won.sum(0) == 0, won.sum(1) == 0
    for label, mask in (
        ("never lost", undefeated & ~winless),
        ("never won", winless & ~undefeated),
        ("won, or lost, all battles outside their own group", ~undefeated & ~winless),
    ):
        if names := [systems[int(i)] for i in np.flatnonzero(compared.unbounded & mask)]:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{', '.join(names[:SHOWN])}{more} {label}: the data set no limit to such ratings; {prior}"


def _entry(value: float, error: float, draws: Floats | None, scale: float = 1.0, shift: float = 0.0) -> dict[str, Any]:
    """Return a number with its interval."""
    low, high = (value - 1.959964 * error, value + 1.959964 * error) if draws is None else intervals.percentile_interval(draws)
    return {"value": value * scale + shift, "ci95": [low * scale + shift, high * scale + shift], "se": error * scale}


def results_of(
    battles: Battles, votes: Votes, settings: Settings, fit: Fit, whole: Floats, draws: Floats | None, deviations: Floats, won: Floats
) -> dict[str, Any]:
    """Return the part of `results.json` that follows from a fit; arguments are those of `rated.evaluate`."""
    size = len(battles.systems)
    errors = np.sqrt(np.maximum(np.diag(whole), 0)) if draws is None else draws.std(0, ddof=1)
    found = rating_errors.ranks(fit.ratings, deviations)
    count = np.bincount(votes.left, minlength=size) + np.bincount(votes.right, minlength=size)
    lost = won.sum(0)
    first = np.bincount((fit.ratings + deviations).argmax(1), minlength=size) / len(deviations)
    shift = MEAN if settings.scale == "elo" else 0.0
    table = [
        {
            "name": battles.systems[i],
            "rating": _entry(float(fit.ratings[i]), float(errors[i]), None if draws is None else draws[:, i], settings.unit, shift),
            "rank": int(np.flatnonzero(np.argsort(-fit.ratings, kind="stable") == i)[0]) + 1,
            "ranks95": [int(found.low[i]), int(found.high[i])],
            "first": float(first[i]),
            "battles": int(count[i]),
            "win_rate": float(won[i].sum() / max(won[i].sum() + lost[i], 1e-300)),
        }
        for i in np.argsort(-fit.ratings, kind="stable")
    ]
    order = np.argsort(-fit.ratings, kind="stable")
    better = [(int(i), int(j)) for i, j in zip(*np.nonzero(found.better), strict=True)]
    return {
        "benchmark": "leaderboard",
        "battles": len(battles),
        "scale": settings.scale,
        "systems": table,
        "judges": _judges(battles, votes, settings, fit, whole, draws),
        "style": [
            {"feature": name, **_entry(float(fit.style[f]), float(errors[place]), None if draws is None else draws[:, place])}
            for f, name in enumerate(battles.features)
            for place in [size + len(battles.judges) + f]
        ],
        "differ": {
            "pairs": len(better),
            "of": size * (size - 1) // 2,
            "better": {battles.systems[i]: [battles.systems[j] for a, j in better if a == i] for i in sorted({a for a, _ in better})},
        },
        "nll": fit.nll,
        "expected": np.round(_expected(votes, fit)[np.ix_(order, order)], 4).tolist(),
        "won": np.round(won[np.ix_(order, order)], 6).tolist(),
        "assumed": assumed(settings, fit, battles),
    }


def _expected(votes: Votes, fit: Fit) -> Floats:
    """Return the wins of i over j that the fit expects, [K, K], with half of the ties."""
    size = fit.model.systems
    tie = np.maximum(fit.tie[votes.judge], NO_TIES)
    share = expected_shares(log_odds(fit.model, fit.theta, votes), tie, fit.model.ties)
    pairs, left = votes.left * size + votes.right, votes.weight * (share[:, 0] + share[:, 1] / 2)
    won = np.bincount(pairs, left, size * size).reshape(size, size)
    return np.asarray(won + np.bincount(pairs, votes.weight - left, size * size).reshape(size, size).T)


def _judges(battles: Battles, votes: Votes, settings: Settings, fit: Fit, whole: Floats, draws: Floats | None) -> list[dict[str, Any]]:
    size, judges, f = len(battles.systems), len(battles.judges), votes.features.shape[1]
    errors = np.sqrt(np.maximum(np.diag(whole), 0)) if draws is None else draws.std(0, ddof=1)
    found = []
    for j, name in enumerate(battles.judges):
        mine = votes.judge == j

        def entry(place: int) -> dict[str, Any] | None:
            return (
                _entry(float(fit.theta[place]), float(errors[place]), None if draws is None else draws[:, place])
                if fit.free[place]
                else None
            )

        order, sharpness, tie = (entry(place) for place in (size + j, size + judges + f + j, size + 2 * judges + f + j))
        if order is not None:
            order["first_wins"] = float(1 / (1 + math.exp(-order["value"])))
        found.append(
            {
                "name": name,
                "battles": int(mine.sum()),
                "ties": float((votes.outcome[mine] == 0.5).mean()) if mine.any() else None,
                "order": order,
                "sharpness": sharpness or {"value": 1.0, "ci95": None, "se": None},
                "tie_parameter": tie,
            }
        )
    return found


_TIES = {
    "half": "a tie is half a win for each",
    "davidson": "ties after Davidson (1970), a parameter for each judge",
    "rao-kupper": "ties after Rao and Kupper (1967), a threshold for each judge",
}
_CLUSTER = {"none": "battles", "item": "pairs of answers (prompt and two systems)", "prompt": "prompts"}


def assumed(settings: Settings, fit: Fit, battles: Battles) -> list[str]:
    """Return what a leaderboard takes for granted, as sentences."""
    gap = "r_left - r_right"
    gap = f"({gap} + style)" if fit.model.features else f"({gap})"
    formula = f"log-odds that the left answer is better = {'sharpness x ' if fit.model.sharpness else ''}{gap}"
    if settings.order:
        formula += " + order effect of the judge, where it is known which answer was shown first"
    found = [formula, _TIES[settings.ties]]
    how = f"intervals: {settings.interval}" + (f" of {settings.resamples} resamples" if settings.interval == "bootstrap" else "")
    found.append(f"{how}; independent are {_CLUSTER[settings.cluster]}")
    if settings.weigh != "none":
        found.append(f"each {settings.weigh} counts equally")
    if settings.ridge > 0:
        found.append(f"normal priors on ratings, order effects and sharpness with standard deviation {settings.ridge**-0.5:.3g}")
    if fit.model.sharpness:
        found.append(f"sharpness is relative to {battles.judges[0]}")
    if settings.scale == "elo":
        found.append("scale: 400 / ln 10 points a nat, mean 1000; 100 points are odds of 1.78 to 1")
    return found
