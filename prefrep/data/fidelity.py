"""What a rendering leaves out, found by comparing renderings, whatever the family of the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from prefrep.records import Messages

MUST_SHOW = ("tool_calls", "tool_responses", "function_call")  # fields of a turn that are all that it says
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_OTHER = "use a tokenizer whose chat template shows it"


class Unshown(ValueError):
    """A record that loses in the rendering what its comparison may depend on.

    Args:
        problem: What is lost.
        remedy: How to keep it.
    """

    def __init__(self, problem: str, remedy: str = _OTHER) -> None:
        self.remedy = remedy
        super().__init__(problem)


class Chat(Protocol):
    """A chat template."""

    def __call__(self, messages: Messages, generation: bool = False, kwargs: Mapping[str, Any] = ...) -> str:
        """Render messages."""


def check(chat: Chat, messages: Messages, kwargs: Mapping[str, Any], rendered: str, events: Counter[str]) -> None:
    """Count what a rendering leaves out.

    Args:
        chat: The template.
        messages: The conversation.
        kwargs: Other arguments of the template.
        rendered: The rendering.
        events: Counter of `thoughts kept`, `thoughts left out`, `turns changed or left out by the template`, `NAME left out`.

    Raises:
        Unshown: A tool call, a tool's answer or the list of tools has no effect on the rendering.
    """
    for place, message in enumerate(messages):
        thoughts, rest = _thoughts(message.content)
        if thoughts:
            events["thoughts kept" if thoughts in rendered else "thoughts left out"] += 1
        if rest not in rendered:
            events["turns changed or left out by the template"] += 1
        for name in message.fields:
            fields = {key: value for key, value in message.fields.items() if key != name}
            without = (*messages[:place], replace(message, fields=fields), *messages[place + 1 :])
            shown = _differs(lambda without=without: chat(without, kwargs=kwargs), rendered)  # type: ignore[misc]
            if not shown and name in MUST_SHOW:
                raise Unshown(f"the chat template leaves out '{name}' of a turn of the {message.role}")
            if name in THOUGHTS:
                events["thoughts kept" if shown else "thoughts left out"] += 1
            elif not shown:
                events[f"{name} left out"] += 1
    for name in kwargs:
        others = {key: value for key, value in kwargs.items() if key != name}
        # An argument can move the generation prompt alone, which is a part of the prompt.
        if _differs(lambda others=others: chat(messages, True, others), chat(messages, True, kwargs)):  # type: ignore[misc]
            continue
        if name in ("tools", "documents"):
            raise Unshown(f"the chat template leaves out the list of {name}")
        events[f"{name} without effect"] += 1


def _thoughts(content: str) -> tuple[str, str]:
    """Return the thoughts of a turn and the rest, both without blanks at their ends."""
    before, tag, after = content.partition("<think>")
    if not tag:
        return "", content.strip()
    thoughts, _, rest = after.partition("</think>")
    return thoughts.strip(), (before + rest).strip()


def _differs(render: Callable[[], str], rendered: str) -> bool:
    try:
        return render() != rendered
    except Exception:  # the template needs what was left out, so it reads it
        return True


def unshown_in_transcripts(messages: Messages, kwargs: Mapping[str, Any], events: Counter[str]) -> None:
    """Count fields of turns, for which transcripts have no place.

    Raises:
        Unshown: A turn calls a tool, or the template would get tools.
    """
    for message in messages:
        for name in message.fields:
            if name in MUST_SHOW:
                raise Unshown(f"a turn of the {message.role} has '{name}', which only a chat template can show", "use template: chat")
            events["thoughts left out" if name in THOUGHTS else f"{name} left out"] += 1
    for name in kwargs:
        if name in ("tools", "documents"):
            raise Unshown(f"it has {name}, which only a chat template can show", "use template: chat")
        events[f"{name} without effect"] += 1


def check_differ(responses: Sequence[Messages], texts: Sequence[str], events: Counter[str]) -> None:
    """Check that responses that differ by more than blanks at the ends of turns render differently.

    Args:
        responses: The responses.
        texts: Their renderings.
        events: Counts responses that differ from another one in nothing but such blanks, and render alike.

    Raises:
        Unshown: Two of them render alike.
    """
    if len(set(texts)) == len(texts):
        return
    first: dict[str, Messages] = {}
    for response, text in zip(responses, texts, strict=True):
        other = first.setdefault(text, response)
        if _essence(other) != _essence(response):
            raise Unshown(f"two responses that differ render alike, since the template leaves out {_difference(other, response)}")
        if other != response:
            events["that differ in blanks alone, which the template trims"] += 1


def _essence(messages: Messages) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [(message.role, message.content.strip(), message.fields) for message in messages]


def _difference(a: Messages, b: Messages) -> str:
    """Return what differs between two responses, in words."""
    if len(a) != len(b):
        return "whole turns"
    for one, other in zip(a, b, strict=True):
        if one.role != other.role:
            return "the roles of turns"
        if one.content.strip() != other.content.strip():
            return "the thoughts" if "<think>" in one.content + other.content else "the contents"
        if names := [name for name in {**one.fields, **other.fields} if one.fields.get(name) != other.fields.get(name)]:
            return f"'{names[0]}'"
    return "blanks"
