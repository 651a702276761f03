"""Verdicts of judges as an audit reads them, one row per question."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prefrep.judges.writing.judgments import Judgment
from prefrep.records import Comparison, Messages, Record, text

FEATURES = ("length", "lists", "headings", "bold")


@dataclass(frozen=True)
class Asked:
    """One question about two answers and its outcome.

    Args:
        judge: Who was asked.
        prompt: What the answers answer; questions on one prompt are not independent.
        a: Name of an answer: of the system behind it, or its number.
        b: Name of the other.
        p: P(a is better) as the judge said it, 3/4 and 1/4 for one plain verdict (see `Form.values`); None: no verdict.
        first: 1: a was shown first; -1: b; 0: unknown.
        soft: Whether `p` is a probability, not counted verdicts.
        why: Why there is no verdict.
        gold: P(a is better) by the label; None: there is none.
        people: Votes for a and for b, a tie half a vote for each; None: nobody voted.
        features: Of both answers by name.
    """

    judge: str
    prompt: str
    a: str
    b: str
    p: float | None
    first: int = 0
    soft: bool = False
    why: str = ""
    gold: float | None = None
    people: tuple[float, float] | None = None
    features: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    def turned(self) -> Asked:
        """Return the same question with a and b exchanged."""
        return Asked(
            self.judge, self.prompt, self.b, self.a, None if self.p is None else 1 - self.p, -self.first, self.soft, self.why,
            None if self.gold is None else 1 - self.gold, None if self.people is None else self.people[::-1],
            {name: each[::-1] for name, each in self.features.items()},
        )  # fmt: skip

    def log_odds(self) -> float:
        """Return the log-odds of a in nats; NaN: no verdict."""
        return math.nan if self.p is None else math.log(self.p / (1 - self.p))

    @property
    def outcome(self) -> float:
        """What a regression explains: a probability as it is, of counted verdicts the majority; NaN: no verdict."""
        if self.p is None or self.soft:
            return math.nan if self.p is None else self.p
        return 0.5 if self.p == 0.5 else float(self.p > 0.5)


@dataclass(frozen=True)
class Pair:
    """All questions to one judge about one pair.

    Args:
        questions: The questions, with the same a and b.
    """

    questions: tuple[Asked, ...]

    @property
    def one(self) -> Asked:
        """The first question, for what all share."""
        return self.questions[0]

    def in_order(self, first: int) -> float:
        """Return the mean log-odds of a over questions that showed a first (1), or b (-1); NaN: none, or one has no verdict."""
        found = [each.log_odds() for each in self.questions if each.first == first]
        return sum(found) / len(found) if found else math.nan

    @cached_property
    def both_orders(self) -> bool:
        """Whether it was asked in both orders."""
        return {1, -1} <= {each.first for each in self.questions}

    @cached_property
    def log_odds(self) -> float:
        """Mean log-odds of a, each order with the same weight; NaN: a question has no verdict."""
        if self.both_orders:
            return (self.in_order(1) + self.in_order(-1)) / 2
        found = [each.log_odds() for each in self.questions]
        return sum(found) / len(found)


def pairs_of(questions: Iterable[Asked]) -> dict[str, list[Pair]]:
    """Return the pairs of each judge; questions about (b, a) join those about (a, b)."""
    found: dict[tuple[str, str, str, str], list[Asked]] = {}
    for each in questions:
        turned = (each.judge, each.prompt, each.b, each.a) in found
        one = each.turned() if turned else each
        found.setdefault((one.judge, one.prompt, one.a, one.b), []).append(one)
    by_judge: dict[str, list[Pair]] = {}
    for (judge, *_), group in found.items():
        by_judge.setdefault(judge, []).append(Pair(tuple(group)))
    return by_judge


def of_judgments(records: Sequence[Record], judgments: Iterable[Judgment]) -> list[Asked]:
    """Return the verdicts of a judge that writes about two answers at a time, with the labels and texts of what it was asked about.

    Args:
        records: What it was asked about, each with an id of its own; a comparison's chosen answer is number 0. Tags `system_0`,
            `system_1` and so on name the systems behind the answers, where they are known.
        judgments: Its judgments.
    """
    known = {record.id: record for record in records}
    found = []
    for each in judgments:
        record = known[each.id]
        answers = (record.chosen, record.rejected) if isinstance(record, Comparison) else record.responses
        i, j = sorted(each.places)
        p = None if each.values is None else each.values[each.places.index(i)]
        features = {name: (value(answers[i]), value(answers[j])) for name, value in MEASURES.items()}
        prompt = record.prompt[0].content if len(record.prompt) == 1 else repr(record.prompt) if record.prompt else record.id
        a, b = (record.tags.get(f"system_{place}") or f"{record.id}/{place}" for place in (i, j))
        if a == b:
            a, b = f"{record.id}/{i}", f"{record.id}/{j}"
        found.append(
            Asked(each.judge, prompt, a, b, p, 1 if each.places[0] == i else -1, each.soft, each.why if p is None else "",
                  _gold(record, i, j), None, features)
        )  # fmt: skip
    return found


def _gold(record: Record, i: int, j: int) -> float | None:
    if isinstance(record, Comparison):
        return record.probability
    if record.scores is None:
        return None
    return 0.5 if record.scores[i] == record.scores[j] else float(record.scores[i] > record.scores[j])


def _count(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.M)


_LISTS, _HEADINGS, _BOLD = _count(r"^\s*(?:[-*+]|\d+[.)])\s"), _count(r"^#{1,6}\s"), _count(r"\*\*[^*\n]+\*\*")


def _length(answer: Messages) -> float:
    return math.log1p(len(text(answer)))


MEASURES: dict[str, Callable[[Messages], float]] = {
    "length": _length,
    "lists": lambda answer: math.log1p(len(_LISTS.findall(text(answer)))),
    "headings": lambda answer: math.log1p(len(_HEADINGS.findall(text(answer)))),
    "bold": lambda answer: math.log1p(len(_BOLD.findall(text(answer)))),
}
