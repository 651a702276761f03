"""Verdicts as records: who was asked, what, in which order, what came back, and what it means."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import PrefrepError
from prefrep.records import Messages


class VerdictError(PrefrepError):
    """A judge that too often gave no verdict."""


class BudgetError(PrefrepError):
    """A judge that has spent what it was allowed."""


@dataclass(frozen=True)
class Judgment:
    """One question to a judge and what it said.

    Args:
        judge: Name of the judge.
        id: Name of the record.
        places: Which of the record's answers were shown, in the order shown.
        values: Of two answers, P(each is better); of several, P(each is the best); of one, its rating; None: no verdict.
        soft: Whether probabilities of tokens are behind the values.
        why: Why there is no verdict, see `reading.Reading`.
        replies: What the judge wrote, answer by answer.
        key: Name of the question in the cache.
        tokens: Tokens of questions and answers.
    """

    judge: str
    id: str
    places: tuple[int, ...]
    values: tuple[float, ...] | None
    soft: bool = False
    why: str = ""
    replies: tuple[str, ...] = ()
    key: str = ""
    tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def log_odds(self) -> float:
        """Return the log-odds in nats that the record's lower-numbered answer of two is better; NaN: no verdict."""
        if self.values is None:
            return math.nan
        value = math.log(self.values[0]) - math.log(self.values[1])
        return value if self.places[0] < self.places[1] else -value


def table_of(judgments: Sequence[Judgment], count: int) -> NDArray[np.float32]:
    """Return log-odds of i over j, [K, K], skew-symmetric: the mean over the orders of each pair; NaN: no verdict in one of them.

    Args:
        judgments: Of pairs of answers to one prompt.
        count: K.
    """
    table, counts = np.zeros((count, count)), np.zeros((count, count))
    for each in judgments:
        low, high = sorted(each.places)
        value = each.log_odds()
        table[low, high] += value
        table[high, low] -= value
        counts[low, high] += 1
    return (table / np.maximum(counts + counts.T, 1)).astype(np.float32)


def rewards_of(judgments: Sequence[Judgment], count: int) -> NDArray[np.float32]:
    """Return one number per answer, [K]: its rating, or the mean logarithm of the probability that it is the best; NaN: no verdict.

    Args:
        judgments: Of single answers to one prompt, or of all of them in several orders; none: a single answer is the best for certain.
        count: K.
    """
    total, asked = np.zeros(count), np.zeros(count)
    for each in judgments:
        places = list(each.places)
        total[places] += math.nan if each.values is None else each.values if len(places) == 1 else np.log(each.values)
        asked[places] += 1
    return (total / np.maximum(asked, 1)).astype(np.float32)


def reversed_order(seed: int, prompt: Messages, answers: Iterable[Messages]) -> bool:
    """Return whether two answers are shown in reverse, drawn from a seed and their content: the same in every run, and at every place."""
    return _drawn(seed, prompt, answers) % 2 == 1


def permutation(seed: int, prompt: Messages, answers: Sequence[Messages]) -> tuple[int, ...]:
    """Return the order in which K answers are shown, drawn from a seed and their content."""
    places = list(range(len(answers)))
    random.Random(_drawn(seed, prompt, answers)).shuffle(places)
    return tuple(places)


def _drawn(seed: int, prompt: Messages, answers: Iterable[Messages]) -> int:
    return int.from_bytes(hashlib.sha256(repr((seed, prompt, tuple(answers))).encode()).digest()[:8])


@dataclass
class Tally:
    """What a judge said so far.

    Args:
        found: Per question nothing, or why it has no verdict and what was written.
    """

    found: dict[object, tuple[str, str] | None] = field(default_factory=dict)

    def add(self, judgment: Judgment) -> None:
        """Count a judgment; a question that was asked before counts once."""
        shown = " ".join(judgment.replies[-1].split())[-160:] if judgment.replies else ""
        self.found[judgment.key or len(self.found)] = (judgment.why, shown) if judgment.values is None else None

    @property
    def questions(self) -> int:
        """Number of questions with an outcome, orders and all."""
        return len(self.found)

    @property
    def none(self) -> Counter[str]:
        """Questions without a verdict by reason."""
        return Counter(each[0] for each in self.found.values() if each is not None)

    @property
    def shown(self) -> Counter[str]:
        """What was written where there is no verdict, by how often."""
        return Counter(each[1] for each in self.found.values() if each is not None)

    @property
    def share(self) -> float:
        """Share of questions without a verdict."""
        return sum(self.none.values()) / self.questions if self.questions else 0.0

    def sentence(self) -> str:
        """Return the counts in words; empty: every question has a verdict."""
        if not self.none:
            return ""
        reasons = ", ".join(f"{count} {why}" for why, count in self.none.most_common())
        return f"{sum(self.none.values())} of {self.questions} questions have no verdict ({reasons})"

    def check(self, judge: str, most: float) -> None:
        """Raise where too many questions have no verdict.

        Args:
            judge: Name of the judge.
            most: Largest share that is accepted.

        Raises:
            VerdictError: There are more.
        """
        if self.share > most:
            common = "; ".join(f"{count} x {text!r}" for text, count in self.shown.most_common(3))
            raise VerdictError(
                f"{judge}: {self.sentence()}, more than {most:.0%}; what is written stands, but trust none of it. The commonest answers "
                f"without a verdict: {common}"
            )
