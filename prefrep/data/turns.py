"""Conversations in rows: the turns of a chat as models write them, with tool calls, reasoning and content parts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from prefrep.records import Message, Messages

Row = Mapping[str, Any]

OTHER_FORMAT = "name another format, or leave format: auto"
# Fields of a turn that chat templates read. Others are metadata: dates, languages, weights.
TURN_FIELDS = (
    "tool_calls", "tool_call_id", "tool_responses", "tool_plan", "function_call", "name", "reasoning_content", "reasoning", "thinking",
)  # fmt: skip
_NO_TOOLS = "it must be a list of functions; rename the column if it holds something else"
# Arguments of `apply_chat_template` that are no variables of a template; who writes data, or asks a server, does not bring a template.
_TAKEN = {
    "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
_MEDIA = re.compile("image|audio|video")


class MisfitError(ValueError):
    """A row that does not fit its format; becomes a `RecordError` once the source of the row is known.

    Args:
        problem: What is wrong.
        remedy: How to fix it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(problem)


def need(row: Row, *names: str) -> None:
    """Check that columns exist and are not null.

    Raises:
        MisfitError: A column is missing or null.
    """
    for name in names:
        if row.get(name) is None:
            found = ", ".join(str(key) for key, value in row.items() if value is not None) or "nothing"
            raise MisfitError(f"no '{name}' (found: {found})", f"if it has another name, say so with columns: {{{name}: NAME}}")


def part(value: Row, name: str, field: str) -> Any:
    """Return a field of the object in a column.

    Raises:
        MisfitError: The field is missing or null.
    """
    if value.get(field) is None:
        need({f"{name}.{key}": inner for key, inner in value.items()}, f"{name}.{field}")
    return value[field]


def kind(value: object) -> str:
    """Return the type of a value in the words of JSON."""
    named = {str: "text", list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
    return "nothing" if value is None else next((word for type, word in named.items() if isinstance(value, type)), type(value).__name__)


def conversation(value: object, name: str) -> Messages:
    """Read a list of {"role", "content"}, where content is text or a list of parts, or null beside tool calls.

    Raises:
        MisfitError: It is no such list, it is empty, or a turn holds something other than text.
    """
    if not isinstance(value, list):
        raise MisfitError(f"'{name}' must be a list of messages, found {kind(value)}", OTHER_FORMAT)
    if not value:
        raise MisfitError(f"'{name}' holds no messages")
    return tuple(_turn(turn, name) for turn in value)


def _turn(turn: object, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise MisfitError(f"a message in '{name}' needs role and content (found: {kind(turn)})")
    fields = {key: without_nulls(turn[key]) for key in TURN_FIELDS if turn.get(key) not in (None, [], "")}
    silent = turn.get("content") is None and bool({"tool_calls", "function_call", "tool_responses", "reasoning_content"} & fields.keys())
    if "role" not in turn or ("content" not in turn and not silent):
        raise MisfitError(f"a message in '{name}' needs role and content (found: {', '.join(map(str, turn))})")
    if "tool_calls" in fields:
        fields["tool_calls"] = _tool_calls(fields["tool_calls"], name)
    content = "" if silent else turn["content"]
    if isinstance(content, list):
        content = _joined(content, name, fields)
    if content is None:
        raise MisfitError(f"a message in '{name}' has neither content nor a tool call")
    return Message(turn["role"], content, fields)


def _joined(parts: list[object], name: str, fields: dict[str, Any]) -> str:
    """Join the text parts of a turn; parts with reasoning go to `fields`."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        what = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(part.get("text"), str) and what in (None, "text", "input_text", "output_text"):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and what in ("thinking", "reasoning") and isinstance(part.get(what) or part.get("text"), str):
            thoughts.append(part.get(what) or part["text"])
        elif isinstance(part, Mapping) and (media := _MEDIA.search(f"{what} {' '.join(map(str, part))}")):
            raise MisfitError(f"a message in '{name}' holds {media[0]} data, and prefrep's models read text only", "remove the row")
        else:
            raise MisfitError(f"a message in '{name}' has a content part that is not text (found: {what or kind(part)})")
    if thoughts:
        fields.setdefault("reasoning_content", "\n".join(thoughts))
    return "".join(texts)


def _tool_calls(calls: object, name: str) -> list[dict[str, Any]]:
    """Check tool calls; templates expect arguments as an object, servers write them as JSON text."""
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise MisfitError(f"'tool_calls' of a message in '{name}' must be a list of objects")
    read = []
    for call in calls:
        function = call.get("function")
        inner = function if isinstance(function, Mapping) else call
        if isinstance(inner.get("arguments"), str):
            parsed = parsed_json(inner["arguments"])
            inner = {**inner, "arguments": parsed if isinstance(parsed, dict) else inner["arguments"]}
        read.append({**call, "function": inner} if isinstance(function, Mapping) else dict(inner))
    return read


def parsed_json(text: str) -> object:
    """Return the value of a JSON text; None: it is no JSON, or too deep or too long for the reader."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def without_nulls(value: Any) -> Any:
    """Return plain data without null fields; Arrow gives every object of a column all the fields that any of them has."""
    if isinstance(value, Mapping):
        return {str(key): without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def check_text_only(row: Row) -> None:
    """Check that a row has no pictures or sounds beside its texts, as TRL's rows for vision models do.

    Raises:
        MisfitError: It has some.
    """
    for name in ("image", "images", "video", "videos", "audio", "audios"):
        if name in row and not isinstance(row[name], str) and row[name] not in (None, [], {}):
            remedy = "remove the row, or the column if the texts stand alone"
            raise MisfitError(f"it has '{name}', and prefrep's models read text only", remedy)


def template_kwargs(row: Row) -> dict[str, Any]:
    """Return the arguments of the chat template in a row: `tools`, and what a column `chat_template_kwargs` holds.

    Raises:
        MisfitError: `tools` is no list, or `chat_template_kwargs` no object.
    """
    given = row.get("chat_template_kwargs")
    given = parsed_json(given) if isinstance(given, str) and given.strip() else given
    if given and not isinstance(given, Mapping):
        raise MisfitError(f"'chat_template_kwargs' must be an object, found {kind(given)}")
    found: dict[str, Any] = without_nulls(given or {})
    for taken in _TAKEN & found.keys():
        raise MisfitError(f"'chat_template_kwargs' sets '{taken}', which prefrep decides", "remove it")
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = parsed_json(tools) if tools.strip() else None
        if tools is None and row["tools"].strip():
            raise MisfitError("'tools' is text that is no JSON", _NO_TOOLS)
    if tools:
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise MisfitError(f"'tools' must be a list of functions, found {kind(tools)}", _NO_TOOLS)
        found["tools"] = without_nulls(tools)
    return found
