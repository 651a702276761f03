"""Repeated pairs: near-duplicates, contradictions, label noise, and the labels that no order of the answers can keep."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefrep.data.firsts import Firsts, Ints, first_rows, numbered
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError
from prefrep.functional.feedback_arcs import minimum
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.clusters import clusters
from prefrep.labels.rows import Labelled
from prefrep.metrics.intervals import Interval, percentile_interval
from prefrep.records import Messages

SHOWN = 8


class Noise(NamedTuple):
    """Share of wrong labels, estimated from pairs that were labelled more than once.

    Args:
        pairs: Pairs with two labels or more.
        disagreement: Share of two labels of one pair that disagree, over pairs.
        rate: The share of wrong labels.
        interval: Its 95 % interval, from resampled pairs.
    """

    pairs: int
    disagreement: float
    rate: float
    interval: Interval


class Duplicates(LabelStep):
    """Near-duplicates, contradictions, noise, and minimum feedback arcs.

    Texts are equal if they share a `near` share of their shingles of three words (Jaccard; found with MinHash). Pairs are equal if their
    prompts and both responses are. If each label is wrong with probability e, independently, two labels of a pair disagree with
    probability d = 2 e (1 - e), so e = (1 - sqrt(1 - 2 d)) / 2. Copied labels agree, and make the estimate too small.

    Columns: `repeats` (labels of the same pair), `agreement` (their share that agrees with this one), `breaks_order` (the label is a
    minimum feedback arc of its prompt: with these gone, the others form an order).

    Args:
        action: `column`: nothing else. `drop`: leave out repeats, labels against the majority of their pair, pairs with as many labels for
            as against, and labels that break the order.
        near: Similarity from which texts are equal, in (0, 1]; 1: only identical texts.
        seed: Seed of the hashes and of the interval.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, action: Literal["column", "drop"] = "column", near: float = 0.9, seed: int = 0) -> None:
        if action not in ("column", "drop"):
            raise ConfigError(f"Duplicates.action must be column or drop, got {action!r}")
        if not 0 < near <= 1:
            raise ConfigError(f"Duplicates.near must be above 0 and at most 1, got {near}")
        self.action, self.near, self.seed = action, near, seed

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        table, unlike = self._table(pairs)
        counts, group, won = table.counts, table.group, table.won
        broken, weights = _feedback_arcs(table)
        mine = counts[group, won]  # labels of the same pair that say the same
        breaks = broken[group, won]
        again = first_rows(group, won) != np.arange(len(pairs))
        clean = ((mine > counts[group, -won]) | (won == 0)) & ~breaks & ~again
        total = counts.sum(1)
        contradicted = np.flatnonzero((counts[:, 1] > 0) & (counts[:, -1] > 0))
        noise = noise_of(counts[:, [1, -1]], self.seed)
        numbers = {
            "pairs": len(pairs),
            "distinct pairs": len(counts),
            "pairs whose two answers are nearly equal": unlike,
            "repeated labels": len(pairs) - len(counts),
            "contradicted pairs": len(contradicted),
            "prompts with a cycle or a contradiction": len(weights),
            "of them mended by a single label": sum(weight == 1 for weight in weights),
            "labels that no order keeps": int(counts[broken].sum()),
            "a cleaned set would hold": int(clean.sum()),
            **({} if noise is None else {
                "pairs labelled more than once": noise.pairs,
                "share of two labels that disagree": noise.disagreement,
                "estimated share of wrong labels": [noise.rate, *noise.interval],
            }),
        }  # fmt: skip
        told = [
            (table.first[each], f"contradicted: {mine[table.first[each]]} of {total[each]} labels say so") for each in contradicted[:SHOWN]
        ]
        alone = np.flatnonzero(breaks & (counts[group, -won] == 0))
        told += [(i, "in a cycle; without it the other labels form an order") for i in alone[:SHOWN]]
        return Outcome(
            Spool(
                each.noted(repeats=int(total[g]), agreement=round(int(mine[i]) / int(total[g]), 6), breaks_order=bool(breaks[i]))
                for i, (each, g) in enumerate(zip(pairs, group, strict=True))
                if clean[i] or self.action == "column"
            ),
            numbers,
            {},
            [example(title, pairs[int(i)].comparison) for i, title in told],
            [] if noise else ["No pair is labelled more than once, so label noise cannot be estimated from repeats."],
        )

    def _table(self, pairs: Sequence[Labelled]) -> tuple[_Table, int]:
        """Return the distinct pairs with their labels, and how many pairs have two nearly equal responses."""
        texts = _Texts(pairs)
        firsts = Firsts().add(text.encode() for text in texts)
        prompt, a, b = clusters(texts, firsts, self.near, self.seed).reshape(-1, 3).T.copy()
        unlike = a == b  # what little differs is what was judged
        a[unlike], b[unlike] = len(firsts) + firsts.reshape(-1, 3)[unlike, 1:].T
        low, high = np.minimum(a, b), np.maximum(a, b)
        won = np.fromiter((each.sign for each in pairs), np.int64) * np.where(a < b, 1, -1)
        same = first_rows(prompt, low, high)
        first, group = np.flatnonzero(same == np.arange(len(pairs))), numbered(same)
        counts = np.zeros((len(first), 3), np.int64)
        np.add.at(counts, (group, won), 1)
        return _Table(prompt[first], low[first], high[first], first, counts, group, won), int(unlike.sum())


class _Table(NamedTuple):
    """Distinct pairs, in the order of first occurrence, and their labels.

    Args:
        prompt: Prompt of each distinct pair [G].
        low: Its response with the lower number [G].
        high: The other one [G].
        first: Where it came first [G].
        counts: Its labels by who wins [G, 3]: neither, `low`, and (in the last column, -1) `high`.
        group: Distinct pair of each label [P].
        won: Who wins: 1, -1, or 0, [P].
    """

    prompt: Ints
    low: Ints
    high: Ints
    first: Ints
    counts: Ints
    group: Ints
    won: Ints


class _Texts(Sequence[str]):
    """Prompt, chosen and rejected of each pair, in this order."""

    def __init__(self, pairs: Sequence[Labelled]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return 3 * len(self._pairs)

    def __iter__(self) -> Iterator[str]:
        return (_text(side) for each in self._pairs for side in _sides(each))

    def __getitem__(self, index: Any) -> Any:  # one text
        return _text(_sides(self._pairs[index // 3])[index % 3])


def _sides(each: Labelled) -> tuple[Messages, Messages, Messages]:
    return each.comparison.prompt, each.comparison.chosen, each.comparison.rejected


def noise_of(votes: Ints, seed: int, draws: int = 2000) -> Noise | None:
    """Estimate the share of wrong labels from repeated labels; None: there are none.

    Args:
        votes: Labels for and against each pair, without ties, [G, 2].
        seed: Seed of the resampling.
        draws: Resamples of pairs.
    """
    counts = votes[votes.sum(1) > 1].astype(np.float64)
    if not len(counts):
        return None
    total = counts.sum(1)
    shares = counts.prod(1) / (total * (total - 1) / 2)  # of two labels of one pair

    def rate(disagreement: float) -> float:
        return (1 - math.sqrt(max(1 - 2 * disagreement, 0))) / 2

    draw = np.random.default_rng(seed)
    rates = np.array([rate(shares[draw.integers(0, len(shares), len(shares))].mean()) for _ in range(draws)])
    return Noise(len(shares), float(shares.mean()), rate(float(shares.mean())), percentile_interval(rates))


def _text(messages: Messages) -> str:
    return "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages)


def _feedback_arcs(table: _Table) -> tuple[NDArray[np.bool_], list[float]]:
    """Return which labels to remove so that the others form orders, as `counts` has them [G, 3], and their number by prompt, if not 0.

    A circle lies in one strongly connected component, so the others cost nothing, and data without prompts are no single table.
    """
    broken = np.zeros(table.counts.shape, bool)
    prompts = numbered(first_rows(table.prompt))
    several = np.bincount(prompts) >= 3
    several[prompts[(table.counts[:, 1:] > 0).all(1)]] = True
    pairs = np.argsort(prompts, kind="stable")
    pairs = pairs[several[prompts[pairs]]]  # a circle has three pairs, or one that is contradicted
    ends = np.stack([table.low[pairs], table.high[pairs]], 1)
    nodes = numbered(first_rows(prompts[pairs].repeat(2), ends.flatten())).reshape(-1, 2)
    place, column = np.nonzero(table.counts[pairs, 1:] > 0)  # column 0: the lower number wins
    winner, loser = nodes[place, column], nodes[place, 1 - column]
    count = int(nodes.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(place), np.int8), (winner, loser)), shape=(count, count))
    component = connected_components(graph, connection="strong")[1] if count else winner
    inside = np.flatnonzero((component[winner] == component[loser]) & (winner != loser))
    inside = inside[np.argsort(component[winner[inside]], kind="stable")]
    weights: defaultdict[int, float] = defaultdict(float)
    for arcs in np.split(inside, np.flatnonzero(np.diff(component[winner[inside]])) + 1):
        if not len(arcs):
            continue
        members, ends = np.unique([winner[arcs], loser[arcs]], return_inverse=True)
        i, j = ends.reshape(2, -1)
        labels = np.zeros((len(members), len(members)))
        labels[i, j] = table.counts[pairs[place[arcs]], 1 + column[arcs]]
        found = minimum(labels)
        rank = np.argsort(found.order)
        gone = arcs[rank[i] > rank[j]]
        broken[pairs[place[gone]], 1 + column[gone]] = True
        weights[int(prompts[pairs[place[arcs[0]]]])] += found.weight
    return broken, list(weights.values())
