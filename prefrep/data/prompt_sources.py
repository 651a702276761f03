"""Prompts for post-training, read from texts, from rows with a prompt, or from preference data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefrep.data.context import asked_by, told
from prefrep.data.files import Row, parts
from prefrep.data.formats import detect, to_records
from prefrep.data.sources import located
from prefrep.data.turns import conversation, template_kwargs
from prefrep.errors import RecordError
from prefrep.records import Message, Messages, RankedResponses

COLUMNS = ("prompt", "instruction", "question", "messages")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation up to a response.

    Args:
        messages: The conversation; the last turn is not the assistant's.
        id: Name of the row.
        source: Origin of the row, as `file:line`.
    """

    messages: Messages
    id: str
    source: str

    def longer(self, suffix: str) -> Prompt:
        """Return the prompt with text appended to its last turn."""
        last = self.messages[-1]
        return replace(self, messages=(*self.messages[:-1], replace(last, content=last.content + suffix)))

    def answered(self, responses: list[str]) -> RankedResponses:
        """Return the record of K responses to the prompt."""
        return RankedResponses(self.messages, tuple((Message("assistant", text),) for text in responses), id=self.id, source=self.source)


def read_prompts(path: str, role: str = "", context: str = "") -> Iterator[Prompt | RecordError]:
    """Read prompts from a text file with one prompt per line, or from rows.

    Rows of preference data give the prompt that training reads (`data.formats`): conversations `chosen` and `rejected`, for one, the turns
    that they share. Other rows, and those whose responses do not fit their format, need a column `prompt`, `instruction`, `question` or
    `messages`.

    Args:
        path: A file (.txt, .jsonl, .json, .parquet, .gz), a folder, a hub id, or `bundled:NAME`.
        role: Purpose of the prompts, see `files.parts`.
        context: Column that prompts name, see `data.context`; empty: none.

    Yields:
        A prompt, or the error of a bad row.

    Raises:
        DataError: The source cannot be read or is empty.
    """
    for _, found in parts(located(path), None, False, role):
        for row, place in found:
            yield from [row] if isinstance(row, RecordError) else _prompts(row, place, context)


def _prompts(row: Row, place: str, context: str) -> list[Prompt | RecordError]:
    """Return the distinct prompts of a row, or its error."""
    try:
        found = _of_row(row, place, context)
    except RecordError as error:
        return [error]
    except ValueError as error:
        return [RecordError(place, str(error))]
    return [_checked(messages, "" if row.get("id") is None else str(row["id"]), place) for messages in found]


def _checked(messages: Messages, id: str, place: str) -> Prompt | RecordError:
    if not messages or not messages[-1].content.strip():
        return RecordError(place, "the prompt is empty", "remove the row, or set --data.on_bad_row skip")
    if messages[-1].role == "assistant":
        return RecordError(place, "the prompt ends with an assistant turn, so there is nothing to answer", "remove that turn")
    return Prompt(messages, id, place)


def _of_row(row: Row, place: str, context: str) -> list[Messages]:
    """Return the prompts of a row of preference data, or else of a column of its own."""
    own = next((column for column in COLUMNS if row.get(column) is not None), None)
    try:
        format = detect(row, place)
    except RecordError:
        format = None
    if template_kwargs(row):
        raise RecordError(place, "sampling gives no tools or chat_template_kwargs to the template", "remove the columns")
    if format is not None:
        try:
            records = to_records(row, format, place)
            if prompts := list(dict.fromkeys(told(record, context).prompt for record in records if record.prompt)):
                return prompts
        except RecordError:
            if own is None:
                raise
    if own is None:
        remedy = f"name a column one of {', '.join(COLUMNS)}, or use preference data with prompts"
        raise RecordError(place, f"no prompt (found: {', '.join(map(str, row)) or 'nothing'})", remedy)
    value = row[own]
    messages = (Message("user", value),) if isinstance(value, str) else conversation(value, own)
    asked = messages[:-1] if own == "messages" and messages[-1].role == "assistant" else messages
    return [asked_by(asked, context, str(row.get(context) or "")) if context else asked]
