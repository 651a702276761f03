"""Battles from columns: two systems, a winner, and who judged which prompt. Columns, not rows, since public files have millions.

Tested on real rows: LLMFAO (left, right, winner). The others follow the published columns of LMArena's data sets (`model_a`, `model_b`,
`winner`, `judge`, `question_id`, `conv_metadata`), of the Kaggle competition (`winner_model_a`, `winner_model_b`, `winner_tie`) and of
MT-bench's human votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prefrep.battles import LEFT, RIGHT, TIE, Battles
from prefrep.errors import ConfigError, DataError

CROWD = "crowd"
MOST_JUDGES = 20  # a column with more names is of people, who are one judge, the crowd, unless it was asked for by name

PAIRS = (
    ("model_a", "model_b"), ("left", "right"), ("model_1", "model_2"), ("system_a", "system_b"), ("system_1", "system_2"),
    ("model_left", "model_right"), ("a", "b"),
)  # fmt: skip
WINNERS = ("winner", "outcome", "verdict")
SPLIT = ("winner_model_a", "winner_model_b", "winner_tie")  # 0 or 1 each
PROMPTS = ("prompt_id", "question_id", "uid", "prompt", "instruction", "question", "id_prompt")
JUDGES = ("judge", "judge_model", "judge_name")
FIRST = "first_shown"  # our own column: 1: the left answer; -1: the right one; 0: both orders, or unknown
META = "conv_metadata"  # LMArena's struct of counts by side
_SIDES = (("_a", "_b"), ("_left", "_right"), ("_1", "_2"))
LENGTH = ("sum_assistant_a_tokens", "sum_assistant_b_tokens")
ALIASES = {"length": LENGTH, "headings": ("header_count_a", "header_count_b"), "lists": ("list_count_a", "list_count_b"),
           "bold": ("bold_count_a", "bold_count_b")}  # fmt: skip

_LEFTS = {"model_a", "left", "a", "first", "model_1", "system_a", "system_1", "[[a]]", "a>b", "a>>b", "1st", "output_1", "response_a"}
_RIGHTS = {"model_b", "right", "b", "second", "model_2", "system_b", "system_2", "[[b]]", "b>a", "b>>a", "2nd", "output_2", "response_b"}
BOTH_BAD = {"tie (bothbad)", "bothbad", "both_bad", "both bad", "tie (both bad)", "tie(bothbad)"}
_TIES = {"tie", "draw", "equal", "both", "[[c]]", "a=b", "b=a", "same", "ties", "both good", "both_good", *BOTH_BAD}
_NOTHING = {"", "none", "null", "nan", "error", "invalid", "n/a", "no verdict", "no_verdict", "unknown", "$error$"}
SAYS: Mapping[str, float | None] = {
    **dict.fromkeys(_LEFTS, LEFT), **dict.fromkeys(_RIGHTS, RIGHT), **dict.fromkeys(_TIES, TIE), **dict.fromkeys(_NOTHING, None)
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Columns that a person names, where the usual names do not tell.

    Args:
        judge: Who judged; default: `judge` or its like, where few do, or else the file.
        prompt: What was answered; default: `prompt_id`, `question_id` and the like.
        category: Kind of prompt; default: none.
        features: Features of style: `length`, `headings`, `lists`, `bold`, or any NAME with columns NAME_a and NAME_b.
    """

    judge: str | None = None
    prompt: str | None = None
    category: str | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """The columns of a file that are read.

    Args:
        pair: Of the systems.
        winner: One, or the three of `SPLIT`.
        prompt: None: there is none.
        judge: None: there is none.
        category: None: none was asked for.
        features: (left, right) by name.
        weight: None: there is none.
        first: Of 1, -1 or 0, see `Battle`; None: there is none, and the left answer was shown first.
        chosen_judge: Whether a person named the column of judges.
    """

    pair: tuple[str, str]
    winner: tuple[str, ...]
    prompt: str | None
    judge: str | None
    category: str | None
    features: Mapping[str, tuple[str, str]]
    weight: str | None
    first: str | None
    chosen_judge: bool = False

    @classmethod
    def find(cls, there: Sequence[str], wanted: Columns, file: str) -> Self:
        """Find the columns of a file.

        Raises:
            DataError: It has no systems or no winner.
            ConfigError: A column that was asked for is not there.
        """
        present = set(there)
        pair = next((each for each in PAIRS if present.issuperset(each)), None)
        winner = next(((each,) for each in WINNERS if each in present), SPLIT if present.issuperset(SPLIT) else None)
        if pair is None or winner is None:
            raise DataError(
                f"{file}: not a file of battles (columns: {', '.join(there)[:200]}); rename its columns to model_a, model_b and winner, "
                "which is model_a, model_b or tie"
            )
        for option, name in (("--judge", wanted.judge), ("--prompt", wanted.prompt), ("--category", wanted.category)):
            if name is not None and name not in present:
                raise ConfigError(f"{file}: no column {name!r} for {option} (columns: {', '.join(there)[:200]})")
        features = {name: cls._sides(name, present, file) for name in wanted.features}
        return cls(
            (pair[0], pair[1]),
            winner,
            wanted.prompt or next((each for each in PROMPTS if each in present), None),
            wanted.judge or next((each for each in JUDGES if each in present), None),
            wanted.category,
            features,
            "weight" if "weight" in present else None,
            FIRST if FIRST in present else None,
            wanted.judge is not None,
        )

    @staticmethod
    def _sides(name: str, present: set[str], file: str) -> tuple[str, str]:
        options = [(name + left, name + right) for left, right in _SIDES]
        if (alias := ALIASES.get(name)) is not None:
            options = [alias, *options]
        for left, right in options:
            if {left, right} <= present:
                return left, right
            if {f"{META}.{left}", f"{META}.{right}"} <= present:
                return f"{META}.{left}", f"{META}.{right}"
        raise ConfigError(f"{file}: no columns {options[-len(_SIDES)][0]} and {options[-len(_SIDES)][1]} for --style {name}")

    def all(self) -> list[str]:
        """Every column that is read."""
        one = (self.prompt, self.judge, self.category, self.weight, self.first)
        return list(dict.fromkeys(each for each in (*self.pair, *self.winner, *one, *chain(*self.features.values())) if each))


@dataclass(frozen=True)
class Coded:
    """A column of few distinct texts.

    Args:
        codes: [N]; -1: null.
        names: The distinct texts.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """What a table gave: texts as codes, numbers as they are.

    Args:
        names: The columns.
        texts: By name.
        numbers: By name, [N]; NaN: null.
    """

    names: Names
    texts: Mapping[str, Coded]
    numbers: Mapping[str, NDArray[np.float64]]


def of_columns(table: Read, file: str, name: str, counts: Counter[str]) -> Battles:
    """Make battles of a table.

    Args:
        table: From `tables`.
        file: Its path, for messages.
        name: Name of the judge where no column names one.
        counts: Numbers of rows by what became of them, which are added to.

    Raises:
        DataError: A system has no name, or a winner is neither side, nor a tie, nor nothing.
    """
    names = table.names
    left, right = (table.texts[each] for each in names.pair)
    if (bad := np.flatnonzero((left.codes < 0) | (right.codes < 0))).size:
        raise DataError(f"{file}: row {bad[0] + 1} lacks the name of a system ({bad.size:,} such rows); fill or remove them")
    systems = tuple(dict.fromkeys((*left.names, *right.names)))
    place = {each: i for i, each in enumerate(systems)}
    sides = [np.array([place[each] for each in column.names], dtype=np.int64)[column.codes] for column in (left, right)]
    outcome, bad_ties = _outcomes(table, sides, systems, file)
    rows = len(outcome)
    same, nothing = sides[0] == sides[1], np.isnan(outcome)
    keep = ~same & ~nothing
    counts.update({"rows": rows, "no verdict": int(nothing.sum()), "same system": int((same & ~nothing).sum()), "both bad": bad_ties})

    def column(title: str | None, missing: str | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Codes and names; nulls are -1, or a name of their own."""
        if title is None:
            return np.full(rows, -1 if missing is None else 0, dtype=np.int64), () if missing is None else (missing,)
        found = table.texts[title]
        if missing is None or found.codes.min(initial=0) >= 0:
            return found.codes, found.names
        return np.where(found.codes < 0, len(found.names), found.codes), (*found.names, missing)

    judge = column(names.judge, name)
    if names.judge and not names.chosen_judge and len(judge[1]) > MOST_JUDGES:
        counts["judges merged"] += len(judge[1])
        judge = np.zeros(rows, dtype=np.int64), (name,)
    prompt, category = column(names.prompt, None), column(names.category, "")
    weight = np.ones(rows) if names.weight is None else table.numbers[names.weight]
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise DataError(f"{file}: a weight is missing or below 0; weights must be 0 or more")
    first = np.ones(rows) if names.first is None else table.numbers[names.first]
    if not np.isin(first, (1, 0, -1)).all():
        raise DataError(f"{file}: {FIRST} must be 1 (the left answer), -1 or 0 (unknown); mend or remove the column")
    return Battles(
        systems,
        judge[1],
        prompt[1],
        category[1],
        sides[0][keep],
        sides[1][keep],
        outcome[keep],
        prompt[0][keep],
        judge[0][keep],
        category[0][keep],
        first[keep],
        weight[keep],
        {each: np.stack([table.numbers[a][keep], table.numbers[b][keep]], axis=1) for each, (a, b) in names.features.items()},
    )


def _outcomes(table: Read, sides: Sequence[NDArray[np.int64]], systems: tuple[str, ...], file: str) -> tuple[NDArray[np.float64], int]:
    """Return P(left is better) [N], NaN without a verdict, and the number of ties of two bad answers."""
    if len(table.names.winner) == len(SPLIT):
        won, lost, tie = (np.nan_to_num(_numbers(table.texts[each], file)) for each in table.names.winner)
        said = won + lost + tie
        if (bad := np.flatnonzero(said > 1)).size:
            raise DataError(f"{file}: row {bad[0] + 1} has several winners in {', '.join(SPLIT)}; one of them must be 1")
        return np.where(said == 1, won + TIE * tie, np.nan), 0
    column = table.texts[table.names.winner[0]]
    said_values, known = _scale(column.names, file), {each: i for i, each in enumerate(systems)}
    values = np.array([*said_values, np.nan])
    outcome = values[column.codes]  # code -1 is the last, NaN
    for code, text in enumerate(column.names):
        winner, label = known.get(text, -1), bool(np.isfinite(said_values[code])) or text.strip().lower() in _NOTHING
        if label and winner < 0:
            continue
        rows = np.flatnonzero(column.codes == code)
        hit = np.where(sides[0][rows] == winner, LEFT, np.where(sides[1][rows] == winner, RIGHT, np.nan))
        if label:
            if not (np.isnan(hit) | (hit == said_values[code])).all():
                raise DataError(
                    f"{file}: the winner {text!r:.60} may be a side, a number or a system of that name; rename the system or "
                    "write model_a, model_b or tie"
                )
            continue
        if np.isnan(hit).any():
            row = int(rows[np.flatnonzero(np.isnan(hit))[0]]) + 1
            raise DataError(
                f"{file}: row {row} has the winner {text!r:.60}; write model_a, model_b or tie (also left, right, A, B, draw, 1, 0.5, 0, "
                "the name of one of its two systems, or nothing where there was no verdict)"
            )
        outcome[rows] = hit
    worst = [code for code, text in enumerate(column.names) if text.strip().lower() in BOTH_BAD]
    return outcome, int(np.isin(column.codes, worst).sum()) if worst else 0


def _scale(names: Sequence[str], file: str) -> list[float]:
    """Return P(left) for each distinct winner; NaN: nothing, or a text that may be the name of a system."""
    found = [SAYS.get(each.strip().lower(), np.nan) for each in names]
    numbers = dict(_numeric(names))
    if numbers and all(value in (1, 2) for value in numbers.values()) and 2 in numbers.values():
        scale = {1.0: LEFT, 2.0: RIGHT}
    elif numbers and set(numbers.values()) == {1.0}:
        raise DataError(f"{file}: every winner is 1, which may be the first system or a score; write model_a, model_b or tie")
    else:
        scale = {value: value for value in numbers.values() if 0 <= value <= 1}
    for code, value in numbers.items():
        found[code] = scale.get(value, np.nan)
    return [np.nan if each is None else float(each) for each in found]


def _numeric(names: Sequence[str]) -> Iterator[tuple[int, float]]:
    for code, each in enumerate(names):
        try:
            value = float(each)
        except ValueError:
            continue
        if np.isfinite(value):
            yield code, value


def _numbers(column: Coded, file: str) -> NDArray[np.float64]:
    try:
        return np.array([*(float(each) for each in column.names), np.nan])[column.codes]
    except ValueError:
        raise DataError(f"{file}: {', '.join(SPLIT)} must hold 0 and 1 (found: {', '.join(column.names)[:80]})") from None


def totalled(value: Any) -> float:
    """Return a count, or the sum of the counts in an object, such as headings by level; NaN for nothing."""
    if isinstance(value, Mapping):
        return float(sum(totalled(each) for each in value.values() if each is not None))
    return float("nan") if value is None else float(value)
