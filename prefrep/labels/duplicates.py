"""Repeated pairs: near-duplicates, contradictions, label noise, and the labels that no order of the answers can keep."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations, pairwise, permutations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefrep.errors import ConfigError
from prefrep.functional.feedback_arcs import minimum
from prefrep.labels.base import Example, LabelStep, Outcome, Work, example
from prefrep.labels.rows import Labelled
from prefrep.metrics.intervals import Interval, percentile_interval
from prefrep.records import Messages

HASHES, BAND = 96, 4  # of MinHash: texts with a similarity of 0.8 meet in one of 24 bands with probability 0.999994
WORDS = 3  # of a shingle
SHOWN = 8
_WORD = re.compile(r"\w+|[^\w\s]")
Shingles = NDArray[np.int32]
Pair = tuple[int, tuple[int, int]]  # prompt, and the two responses in the order of their numbers


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
        places, unlike = self._places(pairs)
        votes: defaultdict[Pair, Counter[int]] = defaultdict(Counter)
        wins = [each.sign * (1 if a < b else -1) for each, (_, a, b) in zip(pairs, places, strict=True)]  # 1: the lower number wins
        keys: list[Pair] = [(prompt, (min(a, b), max(a, b))) for prompt, a, b in places]
        for key, won in zip(keys, wins, strict=True):
            votes[key][won] += 1
        arcs, broken = _feedback_arcs(votes)
        first: dict[tuple[Pair, int], int] = {}
        clean: list[bool] = []
        done: list[Labelled] = []
        for i, (each, key, won) in enumerate(zip(pairs, keys, wins, strict=True)):
            count, breaks = votes[key], (key, won) in broken
            majority = count[won] > count[-won] or won == 0
            clean.append(majority and not breaks and first.setdefault((key, won), i) == i)
            columns = {"repeats": count.total(), "agreement": round(count[won] / count.total(), 6), "breaks_order": breaks}
            done.append(each.noted(**columns))
        noise = noise_of([(count[1], count[-1]) for count in votes.values()], self.seed)
        contradicted = [key for key, count in votes.items() if count[1] and count[-1]]
        numbers = {
            "pairs": len(pairs),
            "distinct pairs": len(votes),
            "pairs whose two answers are nearly equal": unlike,
            "repeated labels": len(pairs) - len(votes),
            "contradicted pairs": len(contradicted),
            "prompts with a cycle or a contradiction": len(arcs),
            "of them mended by a single label": sum(weight == 1 for weight in arcs.values()),
            "labels that no order keeps": sum(broken.values()),
            "a cleaned set would hold": sum(clean),
            **({} if noise is None else {
                "pairs labelled more than once": noise.pairs,
                "share of two labels that disagree": noise.disagreement,
                "estimated share of wrong labels": [noise.rate, *noise.interval],
            }),
        }  # fmt: skip
        return Outcome(
            [each for each, stays in zip(done, clean, strict=True) if stays or self.action == "column"],
            numbers,
            {},
            self._examples(pairs, keys, wins, contradicted, broken),
            [] if noise else ["No pair is labelled more than once, so label noise cannot be estimated from repeats."],
        )

    def _places(self, pairs: Sequence[Labelled]) -> tuple[list[tuple[int, int, int]], int]:
        """Return the numbers of prompt, chosen and rejected of each pair, and how many pairs have two nearly equal responses."""
        comparisons = [each.comparison for each in pairs]
        texts = [_text(side) for each in comparisons for side in (each.prompt, each.chosen, each.rejected)]
        near = clusters(texts, self.near, self.seed)
        exact = {words: len(near) + i for i, words in enumerate(dict.fromkeys(texts))}
        found, unlike = [], 0
        for i in range(len(pairs)):
            prompt, a, b = near[3 * i : 3 * i + 3]
            if a == b:  # what little differs is what was judged
                unlike += 1
                a, b = (exact[words] for words in texts[3 * i + 1 : 3 * i + 3])
            found.append((prompt, a, b))
        return found, unlike

    def _examples(
        self, pairs: Sequence[Labelled], keys: Sequence[Pair], wins: Sequence[int], contradicted: Iterable[Pair],
        broken: Mapping[tuple[Pair, int], int],
    ) -> list[Example]:  # fmt: skip
        of: defaultdict[Pair, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            of[key].append(i)
        shown = [
            example(f"contradicted: {sum(wins[j] == wins[i] for j in of[key])} of {len(of[key])} labels say so", pairs[i].comparison)
            for key in contradicted for i in of[key][:1]
        ][:SHOWN]  # fmt: skip
        told = set(zip(keys, wins, strict=True))
        cycles = [i for i, (key, won) in enumerate(zip(keys, wins, strict=True)) if (key, won) in broken and (key, -won) not in told]
        return shown + [example("in a cycle; without it the other labels form an order", pairs[i].comparison) for i in cycles[:SHOWN]]


def noise_of(votes: Sequence[tuple[int, int]], seed: int, draws: int = 2000) -> Noise | None:
    """Estimate the share of wrong labels from repeated labels; None: there are none.

    Args:
        votes: Labels for and against each pair, without ties.
        seed: Seed of the resampling.
        draws: Resamples of pairs.
    """
    counts = np.array([each for each in votes if sum(each) > 1], np.float64)
    if not len(counts):
        return None
    total = counts.sum(1)
    shares = counts.prod(1) / (total * (total - 1) / 2)  # of two labels of one pair

    def rate(disagreement: float) -> float:
        return (1 - math.sqrt(max(1 - 2 * disagreement, 0))) / 2

    drawn = np.random.default_rng(seed).integers(0, len(shares), (draws, len(shares)))
    rates = np.array([rate(value) for value in shares[drawn].mean(1)])
    return Noise(len(shares), float(shares.mean()), rate(float(shares.mean())), percentile_interval(rates))


def clusters(texts: Sequence[str], near: float, seed: int = 0) -> list[int]:
    """Return the number of each text's cluster: its set of shingles resembles another one's, or is linked to it by a chain.

    Args:
        texts: The texts.
        near: Jaccard similarity of texts that belong together, in (0, 1].
        seed: Seed of the hash functions.
    """
    distinct = {words: i for i, words in enumerate(dict.fromkeys(texts))}
    if near == 1:
        return [distinct[words] for words in texts]
    sets = [_shingles(words) for words in distinct]
    above = list(range(len(sets)))

    def root(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for i, j in _candidates(sets, seed):
        a, b = sorted((root(i), root(j)))
        if a == b:
            continue
        shared = len(np.intersect1d(sets[i], sets[j], assume_unique=True))
        if shared >= near * (len(sets[i]) + len(sets[j]) - shared):
            above[b] = a
    return [root(distinct[words]) for words in texts]


def _candidates(sets: Sequence[Shingles], seed: int) -> list[tuple[int, int]]:
    """Return pairs of sets that agree in a band of MinHash values (Broder 1997; bands as in Leskovec et al., chapter 3).

    Band by band, so that a million rows need 400 bytes a text and not a bucket for each text and band.
    """
    generator = np.random.default_rng(seed)
    prime = (1 << 31) - 1
    scale, shift = generator.integers(1, prime, HASHES, dtype=np.int64), generator.integers(0, prime, HASHES, dtype=np.int64)
    signatures: Shingles = np.empty((len(sets), HASHES), np.int32)
    for signature, shingles in zip(signatures, sets, strict=True):
        signature[:] = ((shingles[:, None] * scale + shift) % prime).min(0)
    pairs: set[tuple[int, int]] = set()
    for band in range(0, HASHES, BAND):
        values = signatures[:, band : band + BAND]
        order = np.lexsort(values.T)  # stable: a bucket keeps the order of its texts
        begins = np.flatnonzero(np.append(True, (values[order[1:]] != values[order[:-1]]).any(1)))
        sizes = np.diff(np.append(begins, len(order)))
        for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            found = order[begin : begin + size].tolist()
            # Of a large bucket, neighbours suffice: clusters are chains.
            pairs.update(combinations(found, 2) if size < 20 else pairwise(found))
    return sorted(pairs)


def _shingles(words: str) -> Shingles:
    """Return the hashes of a text's shingles, in ascending order."""
    tokens = _WORD.findall(words.casefold())
    parts = {" ".join(tokens[i : i + WORDS]) for i in range(max(len(tokens) - WORDS + 1, 1))}
    hashes = b"".join(blake2b(part.encode(), digest_size=4).digest() for part in parts)
    return np.unique((np.frombuffer(hashes, "<u4") >> 1).astype(np.int32))


def _text(messages: Messages) -> str:
    return "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages)


def _feedback_arcs(votes: Mapping[Pair, Counter[int]]) -> tuple[dict[int, float], dict[tuple[Pair, int], int]]:
    """Return the minimum weight to remove by prompt, where it is not 0, and the labels to remove (pair, who wins) with their number.

    A circle lies in one strongly connected component, so the others cost nothing, and data without prompts are no single table.
    """
    nodes: dict[tuple[int, int], int] = {}
    arcs: dict[tuple[int, int], int] = {}  # (winner, loser) -> labels
    for (prompt, (a, b)), count in votes.items():
        i, j = (nodes.setdefault((prompt, name), len(nodes)) for name in (a, b))
        arcs |= {arc: count[won] for arc, won in (((i, j), 1), ((j, i), -1)) if count[won]}
    if not arcs:
        return {}, {}
    ends = np.array(list(arcs))
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, connection="strong")
    members: defaultdict[int, list[int]] = defaultdict(list)
    for node, number in enumerate(component.tolist()):
        members[number].append(node)
    names = list(nodes)
    weights: defaultdict[int, float] = defaultdict(float)
    broken: dict[tuple[Pair, int], int] = {}
    for inside in members.values():
        if len(inside) < 2:
            continue
        found = minimum(np.array([[arcs.get((i, j), 0) for j in inside] for i in inside], np.float64))
        prompt = names[inside[0]][0]
        weights[prompt] += found.weight
        rank = {inside[place]: number for number, place in enumerate(found.order)}
        for i, j in permutations(inside, 2):
            if (i, j) in arcs and rank[i] > rank[j]:
                a, b = names[i][1], names[j][1]
                broken[(prompt, (min(a, b), max(a, b))), 1 if a < b else -1] = arcs[i, j]
    return dict(weights), broken
