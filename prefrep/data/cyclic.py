"""Cyclic and transitive comparisons from ratings on several aspects.

Three responses a, b, c form a cycle if a is rated strictly higher than b on one aspect, b than c on a second and c than a on a third (the
cyclic data of arXiv:2410.02197, Table 1). A model with one score per response orders the three, so it gets at most two of the three
comparisons right: the upper bound of Bradley-Terry models is 2/3, whatever the backbone.

Every path of data can be `cyclic:RATINGS?omit=ASPECT` (`Subset`), which turns rated responses into comparisons.
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
    """A cycle: `responses[n]` beats `responses[n + 1]`, and the last one the first, on `criteria[n]`."""

    responses: tuple[int, int, int]
    criteria: tuple[str, str, str]


def aspects_of(records: Iterable[RankedResponses]) -> tuple[str, ...]:
    """Return all rated aspects, in order of appearance."""
    return tuple(dict.fromkeys(aspect for record in records for aspect in record.ratings))


def find_cycle(record: RankedResponses, aspects: Sequence[str]) -> Cycle | None:
    """Return the clearest cycle of a record: the first one with the largest minimum rating difference.

    Args:
        record: Rated responses to one prompt.
        aspects: Candidate criteria; a cycle uses three of them.

    Returns:
        The cycle, or None if there is none.
    """
    best, clearest = None, 0.0
    rated = [aspect for aspect in aspects if aspect in record.ratings]
    for a, b, c in itertools.permutations(range(len(record.responses)), 3):
        if a != min(a, b, c):  # the same cycle, starting at another response
            continue
        for criteria in itertools.permutations(rated, 3):
            differences = [
                record.ratings[criterion][first] - record.ratings[criterion][second]
                for criterion, (first, second) in zip(criteria, ((a, b), (b, c), (c, a)), strict=True)
            ]
            # Missing ratings are NaN, which compares false.
            if all(difference > 0 for difference in differences) and min(differences) > clearest:
                best, clearest = Cycle((a, b, c), criteria), min(differences)
    return best


def cycles(records: Iterable[Record], omit: str) -> Iterator[Triple]:
    """Yield a subset of the paper: the comparisons a > b, b > c, c > a of each prompt with a cycle in the aspects other than `omit`.

    Subsets of different `omit` can contradict each other, since they use different aspects. Train on one of them, or on `cyclic_shares`.

    Args:
        records: Rated responses, read once; records without ratings or without a cycle are left out.
        omit: The unused aspect. The subset of the comparisons is `without-<omit>`.

    Raises:
        DataError: No record is rated on `omit`, or there are fewer than three other aspects.
    """
    known: dict[str, None] = {}
    for record in records:
        if isinstance(record, RankedResponses):
            known.update(dict.fromkeys(record.ratings))
            if triple := _triple(record, [aspect for aspect in record.ratings if aspect != omit], omit):
                yield triple
    _others(list(known), omit)


def cyclic_shares(records: Sequence[RankedResponses]) -> list[Comparison]:
    """Return at most one cycle per prompt over all subsets, which a single model can learn together.

    Each prompt goes to the smallest subset so far among those in which it has a cycle.

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
    """Return all pairs of responses with different mean ratings, as comparisons of the subset `transitive`.

    The mean is over the aspects on which all responses of a record are rated.

    Args:
        records: Rated responses.
        gap: Minimum difference of the means; pairs with equal means are always left out.
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
    """Split records into training and held-out ones, with `HELD_OUT` of the prompts held out on average.

    The side of a prompt depends on its text and the seed only, also when it occurs twice or the file grows.

    Args:
        records: The records.
        seed: Seed of the split.
    """
    train: list[RankedResponses] = []
    rest: list[RankedResponses] = []
    for record in records:
        (rest if _draw(record.prompt, seed) < HELD_OUT else train).append(record)
    return train, rest


@dataclass(frozen=True)
class Subset:
    """A cyclic subset, or a part of it, as a source of data.

    Train on the `seen` parts and test on the `unseen` ones:

    * `all`: train and test on the same comparisons, as in the paper. This measures what a model can represent, not generalisation.
    * `seen-prompts`, `unseen-prompts`: complete cycles, 30 % of the prompts unseen.
    * `seen-comparisons`, `unseen-comparisons`: two comparisons of each cycle are seen, the third one, drawn by the seed, is not. The two
      do not determine the third: a model with one score per response that fits a > b and b > c implies a > c, so it gets every unseen
      comparison wrong. Only a model that expects cycles gets them right.

    Args:
        ratings: Source of rated responses, see `Source.path`.
        omit: The unused aspect.
        part: The comparisons to use.
        seed: Seed of the split into seen and unseen.

    Raises:
        ConfigError: The part is unknown.
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
        """Parse `cyclic:RATINGS?omit=ASPECT&part=PART&seed=N`, where part and seed are optional.

        Raises:
            ConfigError: The path has another form.
        """
        ratings, _, query = path.removeprefix(PREFIX).partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        usage = f"write {PREFIX}RATINGS?omit=ASPECT, optionally with &part=PART and &seed=N, in quotes"
        if not ratings or "omit" not in given or set(given) - {"omit", "part", "seed"}:
            raise ConfigError(f"{path}: {usage}")
        seed = given.get("seed", "0")
        if not seed.isdecimal():
            raise ConfigError(f"{path}: the seed must be a whole number, 0 or more; {usage}")
        return cls(ratings, given["omit"], given.get("part", "all"), int(seed))  # type: ignore[arg-type]  # checked in __post_init__

    def comparisons(self, records: Iterable[Record]) -> Iterator[Comparison]:
        """Yield the comparisons of rated responses, in order, one prompt at a time.

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
    """Return a number in [0, 1) that depends on the prompt and the seed only."""
    key = "\0".join([str(seed), *(part for message in prompt for part in (message.role, message.content.strip()))])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _others(known: Sequence[str], omit: str) -> list[str]:
    if omit not in known:
        raise DataError(f"no ratings on the aspect '{omit}' (found: {', '.join(known) or 'none'}); omit one of the rated aspects")
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
    name = record.id or record.source.rpartition("/")[2]  # ids must not depend on the folder of the file
    return Comparison(
        prompt=record.prompt,
        chosen=record.responses[chosen],
        rejected=record.responses[rejected],
        subset=subset,
        id=f"{name}/{criterion}:{chosen}>{rejected}",
        source=record.source,
    )
