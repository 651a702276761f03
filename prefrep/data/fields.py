"""The parts of a row that formats share: texts, conversations, numbers, and what to say when one is not there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefrep.records import Comparison, Message, Messages

Row = Mapping[str, Any]

SOFT_LABELS = ("probability", "soft_label")
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_OTHER = "name another format, or leave format: auto"


class MisfitError(ValueError):
    """A row does not hold what its format needs; becomes a `RecordError` once the row's source is known.

    Args:
        problem: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(problem)


def need(row: Row, *names: str) -> None:
    """Checks that columns are there and not null.

    Raises:
        MisfitError: If one is not; says which columns there are.
    """
    for name in names:
        if row.get(name) is None:
            found = ", ".join(key for key, value in row.items() if value is not None) or "nothing"
            raise MisfitError(f"no '{name}' (found: {found})", f"if it has another name, say so with columns: {{{name}: NAME}}")


def kind(value: object) -> str:
    """What a value is, in words that people who do not write Python know."""
    named = {str: "text", list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
    return "nothing" if value is None else named.get(type(value), type(value).__name__)


def text(value: object, name: str) -> str:
    """Checks that a column holds text.

    Raises:
        MisfitError: If it does not.
    """
    if not isinstance(value, str):
        raise MisfitError(f"'{name}' must be text, found {kind(value)}", _OTHER)
    return value


def number(value: object, name: str) -> float:
    """Checks that a column holds a number, and not NaN.

    Raises:
        MisfitError: If it does not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise MisfitError(f"'{name}' must be a number, found {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise MisfitError(f"'{name}' is too large a number to compute with") from None


def rating(value: object, aspect: str) -> float:
    """Reads a rating as UltraFeedback writes it: a number, a numeral, or N/A, which becomes NaN.

    Raises:
        MisfitError: If it is none of these.
    """
    if value is None or (isinstance(value, str) and value.strip().upper() in {"", "N/A", "NA", "NAN"}):
        return math.nan
    try:
        return float(value) if isinstance(value, str) else number(value, aspect)
    except ValueError:
        raise MisfitError(f"the rating '{aspect}' must be a number or N/A, found {value!r}") from None


def conversation(value: object, name: str) -> Messages:
    """Reads a list of {"role", "content"}; a content may be a list of text parts.

    Raises:
        MisfitError: If it is no such list, or an empty one.
    """
    if not isinstance(value, list):
        raise MisfitError(f"'{name}' must be a list of messages, found {kind(value)}", _OTHER)
    if not value:
        raise MisfitError(f"'{name}' holds no messages")
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            found = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else kind(turn)
            raise MisfitError(f"a message in '{name}' needs role and content (found: {found})")
        content = turn["content"]
        if isinstance(content, list) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            content = "".join(part["text"] for part in content)
        messages.append(Message(turn["role"], content))
    return tuple(messages)


def transcript(value: object, name: str) -> Messages:
    r"""Reads "\n\nHuman: ...\n\nAssistant: ..." as messages.

    Raises:
        MisfitError: If it does not begin with a turn.
    """
    parts = TURN.split(text(value, name))
    if len(parts) < 3 or parts[0].strip():
        raise MisfitError(f"'{name}' is not a transcript: it must begin with 'Human:' or 'Assistant:'", "or set format: standard-implicit")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True))


def prompt_of(row: Row, name: str = "prompt") -> Messages:
    """The prompt column, as text or messages.

    Raises:
        MisfitError: If there is no such column, or nothing in it.
    """
    if name not in row:
        need(row, name)
    value = row[name]
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        raise MisfitError(f"'{name}' is empty", f"fill it in; texts without a prompt need rows without a column '{name}'")
    return (Message("user", value),) if isinstance(value, str) else conversation(value, name)


def response(value: object, name: str) -> Messages:
    """A response, as text or messages.

    Raises:
        MisfitError: If it is neither.
    """
    return (Message("assistant", value),) if isinstance(value, str) else conversation(value, name)


def text_response(value: object, name: str) -> Messages:
    """A response that must be text.

    Raises:
        MisfitError: If it is not.
    """
    return (Message("assistant", text(value, name)),)


def check_answers(sides: Iterable[tuple[str, Messages]]) -> None:
    """Checks that what remains of each conversation holds an answer.

    Raises:
        MisfitError: If one has no assistant turn.
    """
    for name, side in sides:
        if not any(message.role == "assistant" for message in side):
            raise MisfitError(f"the response in '{name}' has no assistant turn", "a conversation must end with the response")


def branch(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Splits two conversations into the turns they share and the two rests.

    Each rest keeps at least its last turn, so that equal conversations are still two (equal) responses.

    Raises:
        MisfitError: If a rest has no assistant turn.
    """
    shared, longest = 0, min(len(chosen), len(rejected)) - 1
    while shared < longest and chosen[shared] == rejected[shared]:
        shared += 1
    check_answers((("chosen", chosen[shared:]), ("rejected", rejected[shared:])))
    return chosen[:shared], chosen[shared:], rejected[shared:]


def named(row: Row) -> dict[str, Any]:
    """The columns every record may have: `subset`, `id`, `tags`.

    Raises:
        MisfitError: If the tags are not an object.
    """
    tags = row.get("tags")
    if tags is not None and not isinstance(tags, Mapping):
        raise MisfitError(f"'tags' must be an object of names to values, found {kind(tags)}")
    names = {key: "" if row.get(key) is None else str(row[key]) for key in ("subset", "id")}
    return {**names, "tags": {str(key): str(value) for key, value in (tags or {}).items() if value is not None}}


def pair(row: Row, prompt: Messages, chosen: Messages, rejected: Messages) -> Comparison:
    """Two responses with the optional columns of a comparison: margin, weight, a soft label, and those of `named`.

    Raises:
        ValueError: If one of them does not hold what it should.
    """
    numbers: dict[str, Any] = {key: number(row[key], key) for key in ("margin", "weight") if row.get(key) is not None}
    soft = [name for name in SOFT_LABELS if row.get(name) is not None]
    if len(soft) > 1:
        raise MisfitError(f"'{soft[0]}' and '{soft[1]}' both say P(chosen > rejected)", "keep one of them")
    if soft:
        numbers["probability"] = number(row[soft[0]], soft[0])
    return Comparison(prompt, chosen, rejected, **numbers, **named(row))
