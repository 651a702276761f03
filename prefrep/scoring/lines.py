"""What `prefrep score` says of a record: one answer, that of each annotator, or that of a society."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from prefrep.errors import UsageError
from prefrep.functional.aggregation import Rule, aggregate, check_rule
from prefrep.records import Comparison, RankedResponses, Record, as_responses
from prefrep.scoring.interface import PreferenceScorer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL = "all"


@dataclass(frozen=True)
class Asks:
    """Who is asked about every record.

    Args:
        annotators: Names, or `all` alone; empty: the annotator of each record.
        rule: Makes one answer of theirs; None: each answers.
        alpha: Of the rule `log-mean-exp`.

    Raises:
        UsageError: A rule without annotators.
        ConfigError: There is no such rule.
    """

    annotators: tuple[str, ...] = ()
    rule: Rule | None = None
    alpha: float = -1.0

    def __post_init__(self) -> None:
        if ALL in self.annotators and len(self.annotators) > 1:
            raise UsageError(f"--annotators {ALL} asks everybody already; leave the others out")
        if self.rule is not None:
            check_rule(self.rule, self.alpha)
            if not self.annotators:
                raise UsageError("--aggregate needs to know whose answers: add --annotators all, or --annotators NAME for each")

    @property
    def settings(self) -> str:
        """What moves the output, in words."""
        rule = f" --aggregate {self.rule}" + (f" --alpha {self.alpha}" if self.rule == "log-mean-exp" else "") if self.rule else ""
        return "".join(f" --annotators {name!r}" for name in self.annotators) + rule

    def names(self, scorer: PreferenceScorer) -> Sequence[str]:
        """Return who is asked of a model."""
        known = scorer.annotators
        return known.names if self.annotators == (ALL,) and known is not None else self.annotators


def lines(scorer: PreferenceScorer, records: Iterator[Record], tables: bool, asks: Asks) -> Iterator[dict[str, Any]]:
    """Yield output lines, streamed; neighbouring records of one kind are scored together.

    Args:
        scorer: Scores.
        records: The records.
        tables: With K responses, also the K x K table.
        asks: Who is asked.
    """
    for kind, group in groupby(records, key=type):
        read: deque[Record] = deque()  # records that the scorer has read ahead
        noted = _noted(group, read)
        if asks.annotators:
            names = asks.names(scorer)
            for people in scorer.tables_of(map(as_responses, noted), names):
                yield {
                    "id": read.popleft().id,
                    **_society(people, [(name, _by(scorer, name)) for name in names], asks, kind is Comparison, tables),
                }
        elif names := getattr(scorer, "objectives", ()):
            for rewards in cast(Any, scorer).objective_rewards(map(as_responses, noted)):
                record = read.popleft()
                yield {"id": record.id, **_by_objective(rewards, names, kind is Comparison, tables), **_said(scorer, record)}
        elif kind is Comparison:
            for score in scorer.compare(cast(Iterator[Comparison], noted)):
                record = read.popleft()
                yield {"id": record.id, "score": score, **_said(scorer, record)}
        else:
            for table in scorer.tables(cast(Iterator[RankedResponses], noted)):
                record = read.popleft()
                yield {"id": record.id, **_ranked(table, tables), **_said(scorer, record)}


def _noted(records: Iterator[Record], read: deque[Record]) -> Iterator[Record]:
    for record in records:
        read.append(record)
        yield record


def _said(scorer: PreferenceScorer, record: Record) -> dict[str, str]:
    """Return who answered, of a model that knows people."""
    if scorer.annotators is None:
        return {}
    return {"annotator": record.annotator, "answered_by": _by(scorer, record.annotator)}


def _by(scorer: PreferenceScorer, name: str) -> str:
    return "population" if scorer.annotators is None else scorer.annotators.answering(name)


def _by_objective(rewards: NDArray[np.float32], names: Sequence[str], pair: bool, tables: bool) -> dict[str, Any]:
    """Return the line of a model with several objectives: of pairs differences, of K responses the rewards of each."""
    if pair:
        score, *each = (rewards[0] - rewards[1]).tolist()
        return {"score": score, "objectives": dict(zip(names, each, strict=True))}
    own = rewards[:, 0]
    return _ranked(own[:, None] - own[None], tables) | {"objectives": dict(zip(names, rewards[:, 1:].T.tolist(), strict=True))}


def _ranked(table: NDArray[np.float32], tables: bool) -> dict[str, Any]:
    means = table.mean(axis=1)
    line = {"scores": means.tolist(), "order": (-means).argsort(kind="stable").tolist()}
    return line | ({"table": table.tolist()} if tables else {})


def _society(people: NDArray[np.float32], asked: Sequence[tuple[str, str]], asks: Asks, pair: bool, tables: bool) -> dict[str, Any]:
    if asks.rule is None:
        each = [{"score": float(table[0, 1])} if pair else _ranked(table, tables) for table in people]
        return {"annotators": {name: {**found, "answered_by": by} for (name, by), found in zip(asked, each, strict=True)}}
    social = aggregate(people.astype(float), asks.rule, asks.alpha)
    if pair:
        return {"score": float(social.table[0, 1])}
    order = (-social.scores).argsort(kind="stable").tolist()
    return {"scores": social.scores.tolist(), "order": order} | ({"table": social.table.tolist()} if tables else {})
