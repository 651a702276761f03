"""Comparisons from ratings on several aspects: cyclic ones, which no single score can explain, and transitive ones.

Three responses a, b, c form a cycle when a is rated strictly higher than b on one aspect, b than c on a second and c than a on a third
(the cyclic data of arXiv:2410.02197, Table 1). A model that gives each response one number orders the three, so it gets at most two of
the three comparisons right: 2/3 is Bradley-Terry's ceiling here, whatever its backbone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prefrep.errors import DataError
from prefrep.records import Comparison, RankedResponses


class Cycle(NamedTuple):
    """Response `responses[n]` beats `responses[n + 1]` (and the last one the first) on `criteria[n]`."""

    responses: tuple[int, int, int]
    criteria: tuple[str, str, str]


def aspects_of(records: Iterable[RankedResponses]) -> tuple[str, ...]:
    """The aspects that any record is rated on, in order of appearance."""
    return tuple(dict.fromkeys(aspect for record in records for aspect in record.ratings))


def find_cycle(record: RankedResponses, aspects: Sequence[str]) -> Cycle | None:
    """The clearest cycle among a record's responses: the one whose smallest rating difference is largest, the first of equals.

    Args:
        record: Rated responses to one prompt.
        aspects: The criteria to choose from; a cycle uses three different ones.
    """
    best, clearest = None, 0.0
    rated = [aspect for aspect in aspects if aspect in record.ratings]
    for a, b, c in itertools.permutations(range(len(record.responses)), 3):
        if a != min(a, b, c):  # the same cycle, told from another of its members
            continue
        for criteria in itertools.permutations(rated, 3):
            differences = [
                record.ratings[criterion][first] - record.ratings[criterion][second]
                for criterion, (first, second) in zip(criteria, ((a, b), (b, c), (c, a)), strict=True)
            ]
            # A missing rating is NaN, and no comparison with NaN is true.
            if all(difference > 0 for difference in differences) and min(differences) > clearest:
                best, clearest = Cycle((a, b, c), criteria), min(differences)
    return best


def cyclic(records: Sequence[RankedResponses], omit: str) -> list[Comparison]:
    """One of the paper's sub-sets: three comparisons for every prompt that has a cycle by the aspects other than `omit`.

    Sub-sets of different `omit` can contradict each other, as they judge by different aspects: train on one of them at a time, or on
    `cyclic_shares`.

    Args:
        records: Rated responses; those without a cycle are left out.
        omit: The aspect that is not used. The comparisons' subset is `without-<omit>`.

    Raises:
        DataError: No record is rated on that aspect, or there are fewer than three others.
    """
    kept = _others(records, omit)
    return [comparison for record in records for comparison in _comparisons(record, find_cycle(record, kept), omit)]


def cyclic_shares(records: Sequence[RankedResponses]) -> list[Comparison]:
    """At most one cycle per prompt, over all sub-sets: comparisons that one model can learn together.

    Each prompt goes to the sub-set that is smallest so far, among those in which it has a cycle.

    Raises:
        DataError: There are fewer than four aspects.
    """
    shares: dict[str, list[Comparison]] = {aspect: [] for aspect in aspects_of(records)}
    others = {omit: _others(records, omit) for omit in shares}
    for record in records:
        for omit in sorted(shares, key=lambda aspect: len(shares[aspect])):
            comparisons = _comparisons(record, find_cycle(record, others[omit]), omit)
            shares[omit].extend(comparisons)
            if comparisons:
                break
    return [comparison for share in shares.values() for comparison in share]


def transitive(records: Iterable[RankedResponses], aspect: str | None = None, gap: float = 0.0) -> list[Comparison]:
    """All pairs of responses that differ by one number: the mean rating, or the rating on one aspect. Their subset is `transitive`.

    Args:
        records: Rated responses.
        aspect: The rating to compare by; None takes the mean over the aspects on which all of a record's responses are rated.
        gap: Leave out pairs whose numbers differ by less; equal ones are always left out.
    """
    comparisons = []
    for record in records:
        tables = [numbers for numbers in record.ratings.values() if not any(map(math.isnan, numbers))]
        if aspect is not None:
            tables = [record.ratings[aspect]] if aspect in record.ratings else []
        if not tables:
            continue
        values = [math.fsum(column) / len(tables) for column in zip(*tables, strict=True)]
        for first, second in itertools.permutations(range(len(values)), 2):
            if values[first] > values[second] and values[first] - values[second] >= gap:
                comparisons.append(_comparison(record, first, second, "transitive", aspect or "mean"))
    return comparisons


def split_by_prompt(
    records: Iterable[RankedResponses], held_out: float = 0.2, seed: int = 0
) -> tuple[list[RankedResponses], list[RankedResponses]]:
    """Training and held-out records. The same prompt always lands on the same side, also when it occurs twice or the file grows.

    Args:
        records: What to divide.
        held_out: The expected share of held-out prompts, between 0 and 1.
        seed: Another seed, another division.
    """
    train: list[RankedResponses] = []
    rest: list[RankedResponses] = []
    for record in records:
        key = "\0".join([str(seed), *(part for message in record.prompt for part in (message.role, message.content.strip()))])
        draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        (rest if draw < held_out else train).append(record)
    return train, rest


def _others(records: Iterable[RankedResponses], omit: str) -> list[str]:
    known = aspects_of(records)
    if omit not in known:
        raise DataError(f"no ratings on the aspect '{omit}' (found: {', '.join(known) or 'none'}); omit one of those that are there")
    if len(known) < 4:
        raise DataError(f"a cycle needs three aspects besides '{omit}', and there are {len(known) - 1}; give ratings on four or more")
    return [aspect for aspect in known if aspect != omit]


def _comparisons(record: RankedResponses, cycle: Cycle | None, omit: str) -> list[Comparison]:
    if cycle is None:
        return []
    a, b, c = cycle.responses
    pairs = ((a, b), (b, c), (c, a))
    return [
        _comparison(record, first, second, f"without-{omit}", criterion)
        for criterion, (first, second) in zip(cycle.criteria, pairs, strict=True)
    ]


def _comparison(record: RankedResponses, chosen: int, rejected: int, subset: str, criterion: str) -> Comparison:
    return Comparison(
        prompt=record.prompt,
        chosen=record.responses[chosen],
        rejected=record.responses[rejected],
        subset=subset,
        id=f"{record.id or record.source}/{criterion}:{chosen}>{rejected}",
        source=record.source,
    )
