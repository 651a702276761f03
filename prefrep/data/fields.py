"""Fields of rows that formats share: texts, numbers, prompts, responses, and the errors when one is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefrep.data.turns import OTHER_FORMAT, MisfitError, Row, conversation, kind, need, without_nulls
from prefrep.errors import UsageError
from prefrep.records import Comparison, Message, Messages

SOFT_LABELS = ("probability", "soft_label")
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_NUMBER = re.compile(r"-?\d{1,300}(\.\d+)?([eE][+-]?\d{1,2})?")
NAMES = ("subset", "id", "annotator", "group", "criterion", "label_source")  # columns that every format may have


def renamed(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Return the `columns` of a `Source` from texts of a command line, OURS=THEIRS. Raises UsageError: one is none."""
    columns = {}
    for pair in pairs or ():
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UsageError(f"--column takes OURS=THEIRS, for example rejected=worse, not '{pair}'")
        columns[ours] = theirs
    return columns or None


def text(value: object, name: str) -> str:
    """Return a value that must be text.

    Raises:
        MisfitError: It is not.
    """
    if not isinstance(value, str):
        raise MisfitError(f"'{name}' must be text, found {kind(value)}", OTHER_FORMAT)
    return value


def number(value: object, name: str) -> float:
    """Return a value that must be a number other than NaN, or the text of one, as tables have it.

    Raises:
        MisfitError: It is not, or exceeds the range of floats.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise MisfitError(f"'{name}' must be a number, found {value!r:.60}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if math.isinf(found):
        raise MisfitError(f"'{name}' is too large a number to compute with")
    return found


def rating(value: object, aspect: str) -> float:
    """Read a rating of UltraFeedback: a number, also as text, or N/A, which becomes NaN.

    Raises:
        MisfitError: It is none of these.
    """
    if value is None or (isinstance(value, str) and value.strip().upper() in {"", "N/A", "NA", "NAN"}):
        return math.nan
    try:
        return number(value, aspect)
    except MisfitError:
        raise MisfitError(f"the rating '{aspect}' must be a number or N/A, found {value!r:.60}") from None


def transcript(value: object, name: str) -> Messages:
    r"""Read "\n\nHuman: ...\n\nAssistant: ..." as messages.

    Raises:
        MisfitError: It does not begin with a turn.
    """
    parts = TURN.split(text(value, name))
    if len(parts) < 3 or parts[0].strip():
        raise MisfitError(f"'{name}' is not a transcript: it must begin with 'Human:' or 'Assistant:'", "or set format: standard-implicit")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True))


def prompt_of(row: Row, name: str = "prompt") -> Messages:
    """Return the prompt of a column of text or messages.

    Raises:
        MisfitError: The column is missing or empty.
    """
    if name not in row:
        need(row, name)
    value = row[name]
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        raise MisfitError(f"'{name}' is empty", f"fill it in; texts without a prompt need rows without a column '{name}'")
    return (Message("user", value),) if isinstance(value, str) else conversation(value, name)


def response(value: object, name: str) -> Messages:
    """Return a response given as text or messages.

    Raises:
        MisfitError: It is neither.
    """
    return (Message("assistant", value),) if isinstance(value, str) else conversation(value, name)


def text_response(value: object, name: str) -> Messages:
    """Return a response that must be text.

    Raises:
        MisfitError: It is not.
    """
    return (Message("assistant", text(value, name)),)


def check_answers(sides: Iterable[tuple[str, Messages]]) -> None:
    """Check that each response has an assistant turn.

    Raises:
        MisfitError: A response has none.
    """
    for name, side in sides:
        if not any(message.role == "assistant" for message in side):
            raise MisfitError(f"the response in '{name}' has no assistant turn", "a conversation must end with the response")


def branch(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Split two conversations into the turns that they share and two responses.

    Each response keeps at least the last turn, so that equal conversations give two equal responses.

    Raises:
        MisfitError: A response has no assistant turn.
    """
    shared, longest = 0, min(len(chosen), len(rejected)) - 1
    while shared < longest and chosen[shared] == rejected[shared]:
        shared += 1
    check_answers((("chosen", chosen[shared:]), ("rejected", rejected[shared:])))
    return chosen[:shared], chosen[shared:], rejected[shared:]


def named(row: Row) -> dict[str, Any]:
    """Return the columns that every record may have: those of `NAMES`, and `tags`.

    Data sets can hold an object in a column `group`, for example: what is no name becomes a tag.

    Raises:
        MisfitError: The tags are not an object.
    """
    tags = row.get("tags")
    if tags is not None and not isinstance(tags, Mapping):
        raise MisfitError(f"'tags' must be an object of names to values, found {kind(tags)}")
    names = {key: "" if row.get(key) is None else str(row[key]) for key in ("subset", "id")}
    found = {str(key): str(value) for key, value in (tags or {}).items() if value is not None}
    for key in NAMES[2:]:
        value = row.get(key)
        if isinstance(value, float) and value.is_integer():  # tables with empty cells make 3.0 of 3
            value = int(value)
        if isinstance(value, str | int) and not isinstance(value, bool):
            names[key] = str(value)
        elif value not in (None, [], {}):
            found.setdefault(key, str(without_nulls(value)))
    return {**names, "tags": found}


def pair(row: Row, prompt: Messages, chosen: Messages, rejected: Messages) -> Comparison:
    """Return a comparison with its optional columns: margin, weight, strength, a soft label, and those of `named`.

    Raises:
        ValueError: A column holds a wrong value.
    """
    numbers: dict[str, Any] = {key: number(row[key], key) for key in ("margin", "weight", "strength") if row.get(key) is not None}
    soft = [name for name in SOFT_LABELS if row.get(name) is not None]
    if len(soft) > 1:
        raise MisfitError(f"'{soft[0]}' and '{soft[1]}' both say P(chosen > rejected)", "keep one of them")
    if soft:
        numbers["probability"] = number(row[soft[0]], soft[0])
    return Comparison(prompt, chosen, rejected, **numbers, **named(row))
