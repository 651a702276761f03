"""Comparisons from ratings on several aspects: cyclic ones, which no single score can explain, and transitive ones.

Three responses a, b, c form a cycle when a is rated strictly higher than b on one aspect, b than c on a second and c than a on a third
(the cyclic data of arXiv:2410.02197, Table 1). A model that gives each response one number orders the three, so it gets at most two of
the three comparisons right: 2/3 is Bradley-Terry's ceiling here, whatever its backbone.

Everything that reads data takes `cyclic:RATINGS?omit=ASPECT` as a path (`Subset`): rated responses in, comparisons out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args
from urllib.parse import parse_qsl

from prefrep.errors import ConfigError, DataError
from prefrep.records import Comparison, Messages, RankedResponses, Record

PREFIX = "cyclic:"
HELD_OUT = 0.3  # of the prompts
Part = Literal["all", "seen-prompts", "unseen-prompts", "seen-comparisons", "unseen-comparisons"]
Triple = tuple[Comparison, Comparison, Comparison]


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


def cycles(records: Iterable[Record], omit: str) -> Iterator[Triple]:
    """One of the paper's sub-sets: the comparisons a > b, b > c, c > a of every prompt that has a cycle by the aspects other than `omit`.

    Sub-sets of different `omit` can contradict each other, as they judge by different aspects: train on one of them at a time, or on
    `cyclic_shares`.

    Args:
        records: Rated responses, read once; records without ratings or without a cycle are left out.
        omit: The aspect that is not used. The comparisons' subset is `without-<omit>`.

    Raises:
        DataError: No record is rated on that aspect, or there are fewer than three others.
    """
    known: dict[str, None] = {}
    for record in records:
        if isinstance(record, RankedResponses):
            known.update(dict.fromkeys(record.ratings))
            if triple := _triple(record, [aspect for aspect in record.ratings if aspect != omit], omit):
                yield triple
    _others(list(known), omit)


def cyclic_shares(records: Sequence[RankedResponses]) -> list[Comparison]:
    """At most one cycle per prompt, over all sub-sets: comparisons that one model can learn together.

    Each prompt goes to the sub-set that is smallest so far, among those in which it has a cycle.

    Raises:
        DataError: There are fewer than four aspects.
    """
    shares: dict[str, list[Comparison]] = {aspect: [] for aspect in aspects_of(records)}
    others = {omit: _others(list(shares), omit) for omit in shares}
    for record in records:
        for omit in sorted(shares, key=lambda aspect: len(shares[aspect])):
            if triple := _triple(record, others[omit], omit):
                shares[omit].extend(triple)
                break
    return [comparison for share in shares.values() for comparison in share]


def transitive(records: Iterable[RankedResponses], gap: float = 0.0) -> list[Comparison]:
    """All pairs of responses that differ in their mean rating over the aspects on which all of a record's responses are rated.

    Their subset is `transitive`.

    Args:
        records: Rated responses.
        gap: Leave out pairs whose means differ by less; equal ones are always left out.
    """
    comparisons = []
    for record in records:
        tables = [numbers for numbers in record.ratings.values() if not any(map(math.isnan, numbers))]
        if not tables:
            continue
        means = [math.fsum(column) / len(tables) for column in zip(*tables, strict=True)]
        for first, second in itertools.permutations(range(len(means)), 2):
            if means[first] > means[second] and means[first] - means[second] >= gap:
                comparisons.append(_comparison(record, first, second, "transitive", "mean"))
    return comparisons


def split_by_prompt(records: Iterable[RankedResponses], seed: int = 0) -> tuple[list[RankedResponses], list[RankedResponses]]:
    """Training and held-out records, `HELD_OUT` of the prompts on average.

    The same prompt always lands on the same side, also when it occurs twice or the file grows.

    Args:
        records: What to divide.
        seed: Another seed, another division.
    """
    train: list[RankedResponses] = []
    rest: list[RankedResponses] = []
    for record in records:
        (rest if _draw(record.prompt, seed) < HELD_OUT else train).append(record)
    return train, rest


@dataclass(frozen=True)
class Subset:
    """A cyclic sub-set, or a part of it, as a source of data.

    Parts with `seen` are for training, those with `unseen` for testing what was trained on the `seen` ones:

    * `all`: train and test on the same comparisons, as the paper does. This says what a model can represent, not whether it generalises.
    * `seen-prompts`, `unseen-prompts`: whole cycles, 30 % of the prompts unseen.
    * `seen-comparisons`, `unseen-comparisons`: of each cycle two comparisons are seen and the third, drawn by the seed, is not. Nothing in
      the two says which way the third goes: a model of one number per response that fits a > b and b > c says a > c, so it gets every
      unseen comparison wrong. Only who takes cycles for the rule gets them right.

    Args:
        ratings: Where rated responses are read: what `Source.path` takes.
        omit: The aspect that is not used.
        part: Which comparisons.
        seed: Of the division into seen and unseen.

    Raises:
        ConfigError: There is no such part.
    """

    ratings: str
    omit: str
    part: Part = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise ConfigError(f"{PREFIX}{self.ratings}: no part '{self.part}'; there are {', '.join(get_args(Part))}")

    @classmethod
    def parse(cls, path: str) -> Subset:
        """Reads `cyclic:RATINGS?omit=ASPECT&part=PART&seed=N`; part and seed may be left out.

        Raises:
            ConfigError: It is written in another way.
        """
        ratings, _, query = path.removeprefix(PREFIX).partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        usage = f"write {PREFIX}RATINGS?omit=ASPECT, and if need be &part=PART and &seed=N behind it, in quotes"
        if not ratings or "omit" not in given or set(given) - {"omit", "part", "seed"}:
            raise ConfigError(f"{path}: {usage}")
        seed = given.get("seed", "0")
        if not seed.isdecimal():
            raise ConfigError(f"{path}: the seed must be a whole number, 0 or more; {usage}")
        return cls(ratings, given["omit"], given.get("part", "all"), int(seed))  # type: ignore[arg-type]  # checked where it is made

    def comparisons(self, records: Iterable[Record]) -> Iterator[Comparison]:
        """The comparisons of rated responses, in their order, one prompt at a time.

        Raises:
            DataError: See `cycles`; or no prompt has a cycle.
        """
        kind, _, what = self.part.partition("-")
        empty = True
        for triple in cycles(records, self.omit):
            empty = False
            draw = _draw(triple[0].prompt, self.seed)
            for i, comparison in enumerate(triple):
                unseen = draw < HELD_OUT if what == "prompts" else i == int(3 * draw)
                if not what or unseen == (kind == "unseen"):
                    yield comparison
        if empty:
            raise DataError(f"{PREFIX}{self.ratings}: no prompt has a cycle by the aspects other than '{self.omit}'")


def _draw(prompt: Messages, seed: int) -> float:
    """A number in [0, 1) that follows from the prompt and the seed, whatever stands beside it."""
    key = "\0".join([str(seed), *(part for message in prompt for part in (message.role, message.content.strip()))])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _others(known: Sequence[str], omit: str) -> list[str]:
    if omit not in known:
        raise DataError(f"no ratings on the aspect '{omit}' (found: {', '.join(known) or 'none'}); omit one of those that are there")
    if len(known) < 4:
        raise DataError(f"a cycle needs three aspects besides '{omit}', and there are {len(known) - 1}; give ratings on four or more")
    return [aspect for aspect in known if aspect != omit]


def _triple(record: RankedResponses, aspects: Sequence[str], omit: str) -> Triple | None:
    if (cycle := find_cycle(record, aspects)) is None:
        return None
    (a, b, c), (first, second, third) = cycle
    subset = f"without-{omit}"
    return _comparison(record, a, b, subset, first), _comparison(record, b, c, subset, second), _comparison(record, c, a, subset, third)


def _comparison(record: RankedResponses, chosen: int, rejected: int, subset: str, criterion: str) -> Comparison:
    name = record.id or record.source.rpartition("/")[2]  # an id must not depend on where the file lies
    return Comparison(
        prompt=record.prompt,
        chosen=record.responses[chosen],
        rejected=record.responses[rejected],
        subset=subset,
        id=f"{name}/{criterion}:{chosen}>{rejected}",
        source=record.source,
    )
