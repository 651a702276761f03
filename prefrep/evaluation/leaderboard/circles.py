"""Does one number per system suffice? Held-out likelihood of richer forms, tests against transitive judges, sets of best systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.battles import Battles
from prefrep.console import progress
from prefrep.evaluation.leaderboard.rated import Rated, items, won_by
from prefrep.functional import dominance, hodge, intransitivity, rankings, rating_errors, rating_nulls, ratings, skew_ratings
from prefrep.functional.battle_votes import Votes, grouped
from prefrep.functional.groups import probabilities
from prefrep.functional.skew_ratings import SkewFit
from prefrep.metrics import intervals
from prefrep.writers import leave

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Bools = NDArray[np.bool_]

FORMS: Mapping[str, tuple[skew_ratings.Form, int]] = {
    "ratings": ("hybrid", 0), "gpm, D = 2": ("gpm", 2), "gpm, D = 4": ("gpm", 4), "hybrid, D = 2": ("hybrid", 2),
    "hybrid, D = 4": ("hybrid", 4), "hybrid, D = 8": ("hybrid", 8),
}  # fmt: skip
TESTED = "hybrid, D = 2"  # it holds ratings with the same prior, and every GPM with D = 2; those two are not nested under their priors
LEVEL = 0.05  # of all tests together
PRIORS = (1.0, 3.0, 10.0)  # weights of priors that held-out likelihood chooses from: of |v|^2 / 2, and of |r|^2 / 2 a tenth
FOLDS = 5
SHOWN = 5  # circles that are named
_RIDGE = 1e-3  # of ratings beside embeddings, in folds where a system never loses
_PAIRED = 3  # battles of one prompt that can make a circle


class _Prompts(NamedTuple):
    """Battles of prompts with three systems or more, as tables of at most a few systems."""

    rows: list[Codes]
    left: list[Codes]
    right: list[Codes]
    sizes: list[int]


def evaluate(rated: Rated, draws: int) -> dict[str, Any]:
    """Test whether one rating per system suffices.

    Args:
        rated: The leaderboard. Ties are half wins here, whatever its formula.
        draws: Samples of the transitive null.

    Returns:
        `forms`: held-out log loss of each. `tests`: observed statistics, the same under transitive judges, and p. `suffices`: whether no
        p is at most `level`, which allows for the number of tests (Bonferroni); None: there are too few draws for such a p.
        `beyond_chance`: the tests with such a p. Held-out likelihood alone decides nothing, since the best of several forms is chosen, and
        a better prediction is no circle. `sets`: members, and how often each system is one. `circles`: the clearest ones. `dependence`:
        see `functional.rating_nulls`. `table`: log-odds of the chosen form, in the order of the ratings; None above 100 systems. `soft`:
        whether verdicts are probabilities, which the null does not draw: its plain verdicts have more noise, so that circles beyond it are
        circles, and p is too large.
    """
    battles, votes, settings = rated.battles, rated.votes, rated.settings
    size = len(battles.systems)
    fit = ratings.fit(votes, _plain(rated))
    forms = _held_out(rated, fit)
    chosen = min(forms, key=lambda name: float(forms[name]["log_loss"]))
    prior = forms[chosen]["prior"]
    whole = _form(votes, size, fit, chosen, prior)
    tests = _tests(rated, fit, draws)
    generator = intervals.stream(settings.seed, "sets")
    order = np.argsort(-rated.fit.ratings, kind="stable")
    return {
        "forms": forms,
        "chosen": chosen,
        **_decided(tests["tests"], draws),
        "soft": bool((~np.isin(votes.outcome, (0.0, 0.5, 1.0))).any()),
        **tests,
        "sets": _sets(rated, fit, whole, chosen, prior, generator),
        "circles": _clearest(votes, battles, size),
        "table": {"form": chosen, "log_odds": np.round(whole.table()[np.ix_(order, order)], 4).tolist()} if size <= 100 else None,
    }


def _decided(tests: Mapping[str, Mapping[str, float]], draws: int) -> dict[str, Any]:
    """Return whether one number suffices, by the tests alone."""
    level = LEVEL / max(len(tests), 1)
    beyond = [name for name, each in tests.items() if each["p"] <= level]
    return {"suffices": None if 1 / (1 + draws) > level else not beyond, "level": level, "beyond_chance": beyond}


def _plain(rated: Rated) -> ratings.Model:
    """The model of the leaderboard with ties as halves, and a faint prior for folds and draws in which a system never loses."""
    model = rated.fit.model
    return ratings.Model(model.systems, model.judges, model.features, "half", model.order, model.sharpness, max(model.ridge, _RIDGE))


def _form(votes: Votes, size: int, fit: ratings.Fit, name: str, prior: float = 1.0, start: SkewFit | None = None) -> SkewFit:
    """Fit a form; that of ratings alone is the fit itself."""
    form, dim = FORMS[name]
    if dim == 0:
        return SkewFit(form, fit.ratings, np.zeros((size, 0)), fit.order, fit.nll, fit.nll + _penalty(fit))
    cells, _ = grouped(votes, by_cluster=False, by_outcome=False)
    offset = fit.sharpness[cells.judge] * (cells.features @ fit.style)
    begin = None if start is None else start.embeddings
    own = fit.ratings if start is None else start.ratings
    return skew_ratings.fit(cells, size, fit.sharpness, form, dim, own, fit.order, prior, fit.model.ridge, begin, offset)


def _penalty(fit: ratings.Fit) -> float:
    return fit.model.ridge / 2 * float(fit.ratings @ fit.ratings)


def _log_loss(votes: Votes, fit: ratings.Fit, found: SkewFit) -> Floats:
    gap = found.table()[votes.left, votes.right] + votes.features @ fit.style
    eta = fit.sharpness[votes.judge] * gap + votes.first * found.order[votes.judge]
    return np.asarray(votes.weight * (np.logaddexp(0, eta) - votes.outcome * eta))


def _held_out(rated: Rated, fit: ratings.Fit) -> dict[str, dict[str, Any]]:
    """Return held-out log loss by form, in nats a battle, and its difference to ratings with an interval over clusters.

    Each form has the prior that does best, so that none wins by its prior alone.
    """
    votes, size = rated.votes, len(rated.battles.systems)
    cluster = np.unique(votes.cluster if not votes.independent else items(rated.battles), return_inverse=True)[1]
    generator = intervals.stream(rated.settings.seed, "folds")
    fold = generator.permutation(np.arange(cluster.max() + 1) % FOLDS)[cluster]
    losses = {(name, prior): np.zeros(len(fold)) for name in FORMS for prior in PRIORS}
    for number in progress(range(FOLDS), "held-out likelihood", "folds"):
        leave()
        train, test = votes.weighed((fold != number).astype(np.float64)), fold == number
        held = votes.take(test)
        own = [ratings.fit(train, replace(fit.model, ridge=max(fit.model.ridge, prior / 10)), fit.theta) for prior in PRIORS]
        for prior, each in zip(PRIORS, own, strict=True):
            losses["ratings", prior][test] = _log_loss(held, each, _form(train, size, each, "ratings"))
        best = min(zip(PRIORS, own, strict=True), key=lambda pair: losses["ratings", pair[0]].sum())[1]
        for name, prior in losses:
            if name != "ratings":
                losses[name, prior][test] = _log_loss(held, best, _form(train, size, best, name, prior))
    chosen = {name: min(PRIORS, key=lambda prior: losses[name, prior].sum()) for name in FORMS}
    found, total = {}, votes.weight.sum()
    for name, prior in chosen.items():
        loss = losses[name, prior]
        gap = np.bincount(cluster, loss - losses["ratings", chosen["ratings"]])
        error = float(np.sqrt(np.square(gap - gap.mean()).sum()) / total)
        mean = float(gap.sum() / total)
        found[name] = {
            "log_loss": float(loss.sum() / total),
            "minus_ratings": mean,
            "ci95": [mean - 1.959964 * error, mean + 1.959964 * error],
            "prior": prior,
        }
    return found


# ---- tests


def _tests(rated: Rated, fit: ratings.Fit, draws: int) -> dict[str, Any]:
    battles, votes, size = rated.battles, rated.votes, len(rated.battles.systems)
    eta = ratings.log_odds(fit.model, fit.theta, votes)
    who = rating_nulls.answers(battles.left, battles.right, battles.prompt, size)
    how = rating_nulls.dependence(probabilities(eta), votes.outcome, votes.judge, len(battles.judges), who)
    prompts = _prompts(battles)
    graph = _compared(votes, size)
    observed = _statistics(votes, size, fit, graph, prompts)
    generator = intervals.stream(rated.settings.seed, "null")
    drawn = []
    for _ in progress(range(draws), "transitive judges", "draws"):
        leave()
        new = votes._replace(outcome=rating_nulls.redrawn(eta, votes.judge, who, how, generator))
        drawn.append(_statistics(new, size, ratings.fit(new, fit.model, fit.theta), graph, prompts))
    tests = {}
    for name, value in observed.items():
        values = np.array([each[name] for each in drawn])
        if np.isnan(value):
            continue
        values = np.where(np.isnan(values), 0.0, values)
        tests[name] = {
            "observed": value,
            "mean": float(values.mean()),
            "ci95": list(intervals.percentile_interval(values)),
            "p": float((1 + (values >= value - 1e-9).sum()) / (1 + draws)),
        }
    counts = _triangles(votes.outcome, prompts) if prompts.rows else (0, 0, 0)
    return {
        "tests": tests,
        "draws": draws,
        "dependence": {"spread": how.spread, "share_of_answers": how.share},
        "triangles": dict(zip(("decided", "cyclic", "with_a_tied_pair"), counts, strict=True)),
    }


def _compared(votes: Votes, size: int) -> Bools:
    met = np.zeros((size, size), dtype=bool)
    met[votes.left, votes.right] = True
    return met | met.T


def _margins(votes: Votes, size: int) -> Floats:
    """Return (wins - losses) / battles of each pair, [K, K]; 0 where there are none."""
    won = won_by(votes, size)
    return np.asarray((won - won.T) / np.maximum(won + won.T, 1e-300))


def _statistics(votes: Votes, size: int, fit: ratings.Fit, graph: Bools, prompts: _Prompts) -> dict[str, float]:
    """Return the statistics of `tests`; NaN: nothing to measure."""
    found = _form(votes, size, fit, TESTED)
    margins = _margins(votes, size)
    triples = intransitivity.triples(margins, graph)
    ordered = int(triples.cyclic + triples.ordered)
    parts = hodge.split(margins, graph)
    cyclic = float(hodge.energy(margins * graph - parts.gradient))
    decided, around, _ = _triangles(votes.outcome, prompts) if prompts.rows else (0, 0, 0)
    return {
        "likelihood_ratio": 2 * (fit.nll + _penalty(fit) - found.value),
        "cyclic_triples": float(triples.cyclic) / ordered if ordered else np.nan,
        "cyclic_triples_of_a_prompt": around / decided if decided else np.nan,
        "cyclic_energy": cyclic / max(len(votes.left), 1) * 1000,
        "hodge_share": cyclic / max(float(hodge.energy(margins * graph)), 1e-300),
    }


def _prompts(battles: Battles) -> _Prompts:
    """Return the battles of each prompt on which three systems or more were compared."""
    found = _Prompts([], [], [], [])
    order = np.argsort(battles.prompt, kind="stable")
    known = order[battles.prompt[order] >= 0]
    for rows in np.split(known, np.flatnonzero(np.diff(battles.prompt[known])) + 1) if len(known) else ():
        if len(rows) < _PAIRED:
            continue
        there, place = np.unique(np.concatenate([battles.left[rows], battles.right[rows]]), return_inverse=True)
        if len(there) >= _PAIRED:
            left, right = np.split(place, 2)
            found.rows.append(rows)
            found.left.append(left)
            found.right.append(right)
            found.sizes.append(len(there))
    return found


def _triangles(outcome: Floats, prompts: _Prompts) -> tuple[int, int, int]:
    """Return the triples whose pairs were all judged on one prompt: decided, cyclic among these, and those with a tied pair."""
    decided = cyclic = tied = 0
    for rows, left, right, size in zip(*prompts, strict=True):
        net, met = np.zeros((size, size)), np.zeros((size, size), dtype=bool)
        np.add.at(net, (left, right), 2 * outcome[rows] - 1)
        met[left, right] = True
        found = intransitivity.triples(net - net.T, met | met.T)
        decided, cyclic = decided + int(found.cyclic + found.ordered), cyclic + int(found.cyclic)
        tied += int(found.tied + found.tied_cyclic)
    return decided, cyclic, tied


# ---- sets


def _sets(rated: Rated, fit: ratings.Fit, whole: SkewFit, chosen: str, prior: float, generator: np.random.Generator) -> dict[str, Any]:
    """Return top cycle, uncovered set and maximal lottery, with the share of resamples in which each system is a member."""
    votes, size = rated.votes, len(rated.battles.systems)
    rows, _ = grouped(votes)
    now = _members(_margins(rows, size), _compared(rows, size), whole)
    counts = {name: np.zeros(size) for name in now}
    for _ in progress(range(rated.settings.resamples), "sets of best systems", "resamples"):
        leave()
        new = rows.weighed(rating_errors.resampled(rows, generator))
        new = new.take(new.weight > 0)
        own = ratings.fit(new, fit.model, fit.theta)
        found = _members(_margins(new, size), _compared(new, size), _form(new, size, own, chosen, prior, whole))
        for name, members in found.items():
            counts[name] += members
    names = rated.battles.systems
    return {
        name: {
            "members": [names[i] for i in np.flatnonzero(now[name] > 1e-6)],
            "share": {names[i]: float(now[name][i]) for i in np.flatnonzero(now[name] > 1e-6)} if name == "maximal_lottery" else None,
            "probability": {names[i]: float(p) for i, p in enumerate(counts[name] / rated.settings.resamples) if p > 0},
        }
        for name in now
    }


def _members(margins: Floats, graph: Bools, found: SkewFit) -> dict[str, Floats]:
    top, uncovered = dominance.top_cycle(margins, graph), dominance.uncovered(margins, graph)
    return {
        "top_cycle_possible": top.possible.astype(np.float64),
        "top_cycle_certain": top.certain.astype(np.float64),
        "uncovered_possible": uncovered.possible.astype(np.float64),
        "uncovered_certain": uncovered.certain.astype(np.float64),
        "maximal_lottery": rankings.maximal_lottery(rankings.margins(found.table())),
    }


def _clearest(votes: Votes, battles: Battles, size: int) -> list[dict[str, Any]]:
    """Return the circles of three whose weakest pair is clearest, in standard errors of its votes."""
    won = won_by(votes, size)
    total = won + won.T
    scores = np.where(total > 0, (won - won.T) / np.sqrt(np.maximum(total, 1e-300)), 0.0)
    candidates: list[tuple[float, int, int, int]] = []
    for i in range(size):
        weakest = np.minimum(np.minimum(scores[i][:, None], scores), scores[:, i][None, :])  # i beats j, j beats k, k beats i
        weakest[: i + 1], weakest[:, : i + 1] = 0, 0
        for flat in np.argsort(-weakest, axis=None)[:SHOWN]:
            j, k = divmod(int(flat), size)
            if weakest[j, k] > 0:
                candidates.append((float(weakest[j, k]), i, j, k))
    found = []
    for score, *circle in sorted(candidates, reverse=True)[:SHOWN]:
        edges = [(a, b) for a, b in zip(circle, [*circle[1:], circle[0]], strict=True)]
        found.append(
            {
                "systems": [battles.systems[i] for i in circle],
                "votes": [[float(won[a, b]), float(won[b, a])] for a, b in edges],
                "weakest": score,
            }
        )
    return found
