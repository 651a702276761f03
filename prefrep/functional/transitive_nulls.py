"""Null distributions of tables under a transitive model with the same noise, to test an observed cycle rate.

Each null keeps the sufficient statistics of the transitive model and resamples the rest, which is pure noise if the model holds. Nothing is
estimated, so p-values do not depend on the quality of an estimate: `rotated` and `revoted` are exact tests.

`rerated` is not exact: residuals of rounded ratings contain the rounding and are rounded again. In simulations of transitive ratings,
p-values of cyclic triples and feedback arcs kept their level (at most 7 % of 60 repetitions below 5 %, in most settings none). Those of
cyclic energy did not: 33 % to 100 % false alarms if errors are small, too conservative if qualities are close. Rescaling the errors so that
the rounded residuals keep their length does not help: the bias per prompt is small, but in two of five settings with 2000 prompts every
repetition was a false alarm. So do not test cyclic energy with `rerated`.

No null can separate noise from cycles in a complete table with one hard verdict per pair. The win counts determine the number of its cyclic
triples (Kendall and Babington Smith, 1940), so all tables of `revoted` have the observed number, and p is 1.

Letters: `K` responses, `A` aspects, `B` draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prefrep.functional import hodge, ratings
from prefrep.functional.battle_votes import Votes
from prefrep.functional.groups import probabilities

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

_STEPS_PER_VOTE = 10
_FAINT = 1e-3  # ridge, 1 / variance in nats^2, for responses that never lose


def p_value(observed: float, draws: Floats) -> float:
    """Return the one-sided Monte Carlo p-value: the share of draws at or above the observed value, which counts as a draw."""
    return float((1 + (draws >= observed - 1e-12).sum()) / (1 + len(draws)))


def rotated(table: Floats, compared: Bools | None, draws: int, generator: np.random.Generator) -> Floats:
    """Draw tables of log-odds r_i - r_j + noise, for scores of models.

    Model: s_ij = r_i - r_j + e_ij with independent normal errors of one unknown variance per table. The gradient part and the norm of the
    residual are sufficient for r and the variance; given both, the direction of the residual is uniform on a sphere. So each draw keeps the
    gradient part and rotates the residual at random (rotation test: Langsrud, Statistics and Computing 15, 2005). The share of cyclic
    energy is the same in all draws. A small p means more cyclic verdicts than independent errors of that variance produce. With K = 3 the
    residual has one dimension and only its sign is random.

    Args:
        table: s, [K, K], skew-symmetric.
        compared: Whether a pair was compared, [K, K]; None: all.
        draws: B.
        generator: Random numbers.

    Returns:
        [B, K, K], skew-symmetric.
    """
    potential = hodge.gradient(table, compared)
    graph = hodge.everywhere(len(table)) if compared is None else compared
    noise = np.triu(generator.standard_normal((draws, *table.shape)) * graph, 1)
    noise = noise - np.swapaxes(noise, -1, -2)
    noise = noise - hodge.gradient(noise, compared)
    length = np.sqrt(hodge.energy(table * graph - potential))
    found = np.sqrt(hodge.energy(noise))
    scale = np.divide(length, found, out=np.zeros_like(found), where=found > 1e-9)
    return np.asarray(potential + scale[:, None, None] * noise)


def revoted(wins: Counts, draws: int, generator: np.random.Generator) -> Counts:
    """Draw votes of a Bradley-Terry model that keep the win counts of all responses, for human or model votes.

    Model: each vote between i and j goes to i with probability sigmoid(r_i - r_j). Win counts are sufficient for r; given them, all
    assignments of votes are equally likely. The sampler reverses directed cycles of votes, which keeps every win count. One chain leads
    from the data to a common ancestor, and one from there to each draw, over the same cycles in reverse order: data and draws are
    exchangeable, so the test is exact for any length of the chains (Besag and Clifford, Biometrika 76, 1989). Longer chains have more
    power.

    Args:
        wins: [K, K], entry [i, j] is the number of wins of i over j, without ties.
        draws: B.
        generator: Random numbers.

    Returns:
        wins, [B, K, K].
    """
    cycles = _cycles(wins + wins.T > 0)
    if not cycles:
        return np.repeat(wins[None], draws, axis=0)
    steps = [cycles[i] for i in generator.integers(0, len(cycles), size=int(_STEPS_PER_VOTE * wins.sum()))]
    ancestor = _walk(wins[None].copy(), steps, generator)
    return _walk(np.repeat(ancestor, draws, axis=0), steps[::-1], generator)


def bradley_terry(wins: Counts, draws: int, generator: np.random.Generator, step: int) -> Iterator[Counts]:
    """Yield votes drawn anew from the Bradley-Terry model of the data, for tables too large for `revoted`.

    The model's parameters are estimates, so the test is not exact; its level depends on many votes for each response.

    Args:
        wins: [K, K], entry [i, j] is the number of wins of i over j, without ties.
        draws: B.
        generator: Random numbers.
        step: Draws at a time.

    Yields:
        wins, [step, K, K]; the last ones may be fewer.
    """
    size = len(wins)
    i, j = np.nonzero(np.triu(wins + wins.T, 1))
    votes = (wins + wins.T)[i, j]
    one, none = np.ones(len(i)), np.zeros(len(i), dtype=np.int64)
    outcome = wins[i, j] / votes
    model = ratings.Model(size, order=False, ridge=_FAINT)
    battles = Votes(i, j, outcome, one, none, votes.astype(np.float64), votes.astype(np.float64), none - 1, np.zeros((len(i), 0)))
    r = ratings.fit(battles, model).ratings
    p = probabilities(r[i] - r[j])
    for done in range(0, draws, step):
        found = np.zeros((min(step, draws - done), size, size), dtype=wins.dtype)
        found[:, i, j] = generator.binomial(votes, p, size=(len(found), len(i)))
        found[:, j, i] = votes - found[:, i, j]
        yield found


def rerated(rated: Floats, levels: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Draw ratings of responses with one quality each, equal for all aspects, for majorities over aspects.

    Model: rating = quality of the response + leniency of the aspect + independent normal errors of one variance per prompt, on a grid of
    levels. Draws keep the means by response and by aspect, rotate the residual as `rotated` does, and round to the nearest level, so that
    ties occur. Errors are per rating, not per pair: each aspect remains an order, and cycles come from the vote alone. This is an
    approximation, valid for counts of cycles only; see the docstring of the module.

    Args:
        rated: Ratings, [A, K], none missing.
        levels: Possible ratings in ascending order, [L].
        draws: B.
        generator: Random numbers.

    Returns:
        [B, A, K].
    """
    kept = rated.mean(0, keepdims=True) + rated.mean(1, keepdims=True) - rated.mean()
    length = np.linalg.norm(rated - kept)
    noise = generator.standard_normal((draws, *rated.shape))
    noise = noise - noise.mean(1, keepdims=True) - noise.mean(2, keepdims=True) + noise.mean((1, 2), keepdims=True)
    found = np.linalg.norm(noise, axis=(1, 2))
    scale = np.divide(length, found, out=np.zeros_like(found), where=found > 1e-9)
    return np.asarray(levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, kept + scale[:, None, None] * noise)])


def _walk(wins: Counts, steps: list[tuple[int, ...]], generator: np.random.Generator) -> Counts:
    """Pick a random vote on every edge of each cycle and reverse them if they form a directed cycle; [B, K, K], in place."""
    for cycle in steps:
        here, there = np.array(cycle), np.array([*cycle[1:], cycle[0]])
        along, against = wins[:, here, there], wins[:, there, here]
        forward = generator.random(along.shape) * (along + against) < along
        change = np.where(forward.all(1), -1, np.where(forward.any(1), 0, 1))[:, None]
        change *= generator.integers(0, 2, size=change.shape)  # a chain that always reversed would alternate between two states
        wins[:, here, there] += change
        wins[:, there, here] -= change
    return wins


def _cycles(voted: Bools) -> list[tuple[int, ...]]:
    """Return the triangles of a graph, and the longer cycles that its edges close in a spanning forest."""
    size = len(voted)
    found: list[tuple[int, ...]] = [
        c for c in combinations(range(size), 3) if voted[c[0], c[1]] and voted[c[1], c[2]] and voted[c[0], c[2]]
    ]
    parent: dict[int, int] = {}
    for root in range(size):
        if root in parent:
            continue
        parent[root] = root
        queue = [root]
        for node in queue:
            new = [int(other) for other in np.flatnonzero(voted[node]) if int(other) not in parent]
            parent.update(dict.fromkeys(new, node))
            queue += new

    def up(node: int) -> list[int]:
        path = [node]
        while parent[path[-1]] != path[-1]:
            path.append(parent[path[-1]])
        return path

    for i, j in zip(*np.nonzero(np.triu(voted, 1)), strict=True):
        left, right = up(int(i)), up(int(j))
        common = next(node for node in left if node in right)
        cycle = (*left[: left.index(common) + 1], *right[: right.index(common)][::-1])
        if len(cycle) > 3:
            found.append(cycle)
    return found
