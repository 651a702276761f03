"""The pairs of responses in a record that a model learns from or scores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

from prefrep.data.trees import NOBODY
from prefrep.errors import RecordError
from prefrep.records import DESIRABLE, VALUE, Comparison, RankedResponses, Record, preferred

# Log-odds of two probabilities p > q differ by 4 (p - q) or more: such a margin never contradicts their values.
VALUE_MARGIN = 4.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison of two responses to one prompt.

    Args:
        a: Index of the first response.
        b: Index of the second response, or `NOBODY`.
        probability: P(a wins).
        margin: Margin of the loss, in nats.
        weight: Weight in the loss; the pairs of one prompt together weigh as much as one comparison.
    """

    a: int
    b: int
    probability: float
    margin: float
    weight: float


def learnable_pairs(record: Record, unpaired: bool) -> tuple[list[Pair], int]:
    """Return the pairs to learn from a record, and the number of ties, which are left out.

    A comparison is one pair; every two ranked responses with unequal scores are one. Steps with values also have margins by the difference
    of their values, and each alone is a pair with `NOBODY` whose P is its value.

    Args:
        record: The record.
        unpaired: Whether single responses that all have the same label (criterion `desirable`), and steps, are pairs with `NOBODY`.

    Raises:
        RecordError: Ranked responses have no scores.
    """
    if isinstance(record, Comparison):
        return [Pair(0, 1, record.probability, record.margin, record.weight)], 0
    if record.scores is None:
        raise without_scores(record)
    found = preferred(record.scores)
    if not found and unpaired and record.criterion == DESIRABLE:  # all labels agree
        return [Pair(i, NOBODY, score, 0.0, 1.0 / len(record.scores)) for i, score in enumerate(record.scores)], 0
    alone: list[Pair] = []
    slope = 0.0
    if record.criterion == VALUE:
        slope, count = VALUE_MARGIN, len(record.scores)
        alone = [Pair(i, NOBODY, value, 0.0, 1.0 / count) for i, value in enumerate(record.scores) if unpaired]
    ranked = [Pair(i, j, 1.0, slope * (record.scores[i] - record.scores[j]), 1.0 / len(found)) for i, j in found]
    return [*alone, *ranked], comb(len(record.responses), 2) - len(found)


def without_scores(record: RankedResponses) -> RecordError:
    """Return the error for ranked responses that have no scores, with the ratings that could be some."""
    aspects = ", ".join(record.ratings)
    remedy = f"name the rating that counts with criterion: {aspects}" if aspects else "add a 'scores' column"
    return RecordError(record.source or "a record", "ranked responses without scores express no preference", remedy)


def all_pairs(record: Record) -> list[Pair]:
    """Return all pairs i < j of the responses of a record, for scoring."""
    count = 2 if isinstance(record, Comparison) else len(record.responses)
    return [Pair(i, j, 1.0, 0.0, 1.0) for i, j in combinations(range(count), 2)]
