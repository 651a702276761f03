"""What a transitive model with the same noise would have given: tables to hold an observed cycle rate against.

Each null is drawn given what the transitive model can know: the estimates of its own parameters are kept, and only what is left, which is
pure noise if the model is right, is drawn again. Nothing has to be estimated, so p-values do not depend on how well it was: `rotated` and
`revoted` are exact tests.

`rerated` is not. What is left of rounded ratings holds their rounding, and is rounded once more. In simulations of transitive ratings the p
of cyclic triples and of feedback arcs kept their level (at most 7 % of 60 repetitions below 5 %, in most settings none). The p of cyclic
energy did not: 33 % to 100 % of false alarms where errors are small, too cautious where qualities lie close. Errors of the size with which
the rounded rest keeps its length do not mend that: what stays is small on each prompt, and in two of five settings with 2000 prompts every
repetition was a false alarm. So cyclic energy is not to be tested with `rerated`.

What no null can do: tell noise from cycles in a complete table with one hard verdict per pair. The number of its cyclic triples follows
from how often each response won (Kendall and Babington Smith, 1940), so `revoted` gives tables with the observed number, and p is 1.

Letters: `K` responses, `A` aspects, `B` draws.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prefrep.functional import hodge

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

_STEPS_PER_VOTE = 10


def p_value(observed: float, draws: Floats) -> float:
    """One-sided Monte Carlo p-value: how often the null gives as much or more, the observed value counted among the draws."""
    return float((1 + (draws >= observed - 1e-12).sum()) / (1 + len(draws)))


def rotated(table: Floats, compared: Bools | None, draws: int, generator: np.random.Generator) -> Floats:
    """Tables of log-odds r_i - r_j + noise, for models.

    Model: s_ij = r_i - r_j + e_ij with independent normal errors of one unknown size per table. The gradient part and the length of
    the rest are sufficient for r and that size; given both, the direction of the rest is uniform on a sphere. So the gradient part is
    kept and the rest turned at random (a rotation test: Langsrud, Statistics and Computing 15, 2005). The share of cyclic energy is the
    same in all draws. A small p says that the verdicts run in circles more than independent errors of that size would make them. With
    K = 3 the rest has one dimension and only its sign is drawn.

    Args:
        table: s, [K, K], skew-symmetric.
        compared: Which pairs were compared, [K, K]; None: all.
        draws: B.
        generator: Random numbers.

    Returns:
        [B, K, K], skew-symmetric.
    """
    parts = hodge.split(table, compared)
    graph = hodge.everywhere(len(table)) if compared is None else compared
    noise = np.triu(generator.standard_normal((draws, *table.shape)) * graph, 1)
    noise = noise - np.swapaxes(noise, -1, -2)
    noise = noise - hodge.split(noise, compared).gradient
    length = np.sqrt(hodge.energy(parts.curl + parts.harmonic))
    found = np.sqrt(hodge.energy(noise))
    scale = np.divide(length, found, out=np.zeros_like(found), where=found > 1e-9)
    return np.asarray(parts.gradient + scale[:, None, None] * noise)


def revoted(wins: Counts, draws: int, generator: np.random.Generator) -> Counts:
    """Votes of a Bradley-Terry model in which each response wins as often as it did, for comparisons.

    Model: each vote between i and j goes to i with probability sigmoid(r_i - r_j). The numbers of wins are sufficient for r; given
    them, all ways to distribute the votes are equally likely. They are sampled by reversing directed cycles of votes, which leaves every
    number of wins as it is. A chain is run from the data to a common ancestor and from there to each draw, over the same cycles in
    reverse: data and draws are then exchangeable, so the test is exact however long the chains are (Besag and Clifford, Biometrika 76,
    1989). Longer ones have more power.

    Args:
        wins: [K, K], entry [i, j] is how often i beat j; ties are not votes here.
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


def rerated(ratings: Floats, levels: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Ratings of responses that have one quality each, whatever the aspect, for majorities over aspects.

    Model: rating = quality of the response + leniency of the aspect + independent normal errors of one size per prompt, on a grid of
    levels. Means by response and by aspect are kept, the rest is turned at random as in `rotated` and brought back to the nearest level,
    which ties need. Errors are drawn per rating, not per pair: each aspect stays an order, and what cycles there are come from the vote.
    An approximation, for counts of cycles alone: see above.

    Args:
        ratings: [A, K], all known.
        levels: The ratings that there are, rising, [L].
        draws: B.
        generator: Random numbers.

    Returns:
        [B, A, K].
    """
    kept = ratings.mean(0, keepdims=True) + ratings.mean(1, keepdims=True) - ratings.mean()
    length = np.linalg.norm(ratings - kept)
    noise = generator.standard_normal((draws, *ratings.shape))
    noise = noise - noise.mean(1, keepdims=True) - noise.mean(2, keepdims=True) + noise.mean((1, 2), keepdims=True)
    found = np.linalg.norm(noise, axis=(1, 2))
    scale = np.divide(length, found, out=np.zeros_like(found), where=found > 1e-9)
    return np.asarray(levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, kept + scale[:, None, None] * noise)])


def _walk(wins: Counts, steps: list[tuple[int, ...]], generator: np.random.Generator) -> Counts:
    """Picks a vote on every edge of a cycle, at random, and reverses them where they all point one way round; [B, K, K] in place."""
    for cycle in steps:
        here, there = np.array(cycle), np.array([*cycle[1:], cycle[0]])
        along, against = wins[:, here, there], wins[:, there, here]
        forward = generator.random(along.shape) * (along + against) < along
        change = np.where(forward.all(1), -1, np.where(forward.any(1), 0, 1))[:, None]
        change *= generator.integers(0, 2, size=change.shape)  # a chain that always turned would go to and fro between two states
        wins[:, here, there] += change
        wins[:, there, here] -= change
    return wins


def _cycles(voted: Bools) -> list[tuple[int, ...]]:
    """Triangles of a graph, and the longer cycle, if it is one, that every pair closes which a spanning tree leaves out."""
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
