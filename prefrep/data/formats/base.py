"""The class of formats, and the tests on columns that detection uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefrep.data.fields import TURN
from prefrep.data.turns import Row
from prefrep.records import Record

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Format:
    """A published way to write preferences as rows.

    Args:
        example: Sketch of a row, for messages and help.
        fits: Whether a row looks like this format, judged by its columns and their types.
        convert: Converts a row to a record without `source`, or to several (one per criterion or annotator); raises `ValueError` if it
            cannot.
        gathers: Whether rows are single responses, which `data.gather` collects into ranked responses by prompt.
        generic: Whether rows of other formats often have these columns too, so that a match is not reported as ambiguous.
    """

    example: str
    fits: Callable[[Row], bool]
    convert: Callable[[Row], Record | Sequence[Record]]
    gathers: bool = False
    generic: bool = False


def has(*names: str) -> Callable[[Row], bool]:
    """Return a test that a row has all of some columns."""
    wanted = frozenset(names)
    return lambda row: wanted <= row.keys()


def is_text(value: object) -> bool:
    """Return whether a value is text."""
    return isinstance(value, str)


def is_texts(value: object) -> bool:
    """Return whether a value is a non-empty list of texts."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def is_chat(value: object) -> bool:
    """Return whether a value is a list of messages."""
    return isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value)


def is_transcript(value: object) -> bool:
    """Return whether a value is a transcript of Human and Assistant."""
    return isinstance(value, str) and bool(TURN.match(value)) and "\n\nAssistant:" in value


def both(row: Row, check: Callable[[object], bool]) -> bool:
    """Return whether both `chosen` and `rejected` pass a check."""
    return all(check(row.get(name)) for name in SIDES)
