"""Verdicts on two responses that are not yet sorted into chosen and rejected: the functions that formats share to make records of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefrep.data.fields import named
from prefrep.data.turns import MisfitError, Row, kind
from prefrep.records import Comparison, Messages


def verdict(
    row: Row,
    prompt: Messages,
    sides: Sequence[Messages],
    preferred: int | None,
    *,
    probability: float = 1.0,
    models: Sequence[object] = (None, None),
    tags: Mapping[str, object] | None = None,
    **fields: Any,
) -> Comparison:
    """Return the comparison of two responses.

    Args:
        row: The row, for the columns that every format may have (`fields.named`).
        prompt: The prompt.
        sides: The first and the second response.
        preferred: Index of the preferred response; None: a tie, which becomes P(first > second) = 0.5.
        probability: P(preferred > other).
        models: Authors of the two responses, which become the tags `chosen_model` and `rejected_model`.
        tags: More tags; None values are left out.
        **fields: Other fields of `Comparison`, which precede the columns of the row.
    """
    first = preferred or 0
    common = named(row)
    found = {"chosen_model": models[first], "rejected_model": models[1 - first], **(tags or {})}
    common["tags"] = common["tags"] | {name: str(value) for name, value in found.items() if value not in (None, "")}
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    share = 0.5 if preferred is None else probability
    return Comparison(prompt, sides[first], sides[1 - first], probability=share, **{**common, **given})


def better(sign: float) -> int | None:
    """Return the preferred side of a signed preference: 0 if it is positive, 1 if it is negative, None for a tie at 0."""
    return None if sign == 0 else int(sign < 0)


def choice(value: object, name: str, sides: Mapping[Any, int | None]) -> int | None:
    """Return the side that a published value names.

    Args:
        value: The value.
        name: Its column.
        sides: Side by value: 0, 1, or None for a tie.

    Raises:
        MisfitError: The value is none of them.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | dict) or value not in sides:
        known = ", ".join(map(repr, sides))
        raise MisfitError(f"'{name}' must be one of {known}, found {kind(value) if isinstance(value, list | dict) else repr(value)}")
    return sides[value]


def flag(value: object, name: str) -> bool:
    """Return a truth value, also as 0 or 1 or as text.

    Raises:
        MisfitError: It is none.
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise MisfitError(f"'{name}' must be true or false, found {value!r:.60}")
