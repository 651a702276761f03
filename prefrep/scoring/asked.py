"""Questions as people write them, text or conversations, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefrep.data.turns import conversation
from prefrep.records import Message, Messages, RankedResponses

Said = str | Sequence[Message | Mapping[str, str]]


def ranked(prompt: Said, responses: Sequence[Said]) -> RankedResponses:
    """Return a record of a prompt and K responses; strings become one user message, or one assistant message.

    Raises:
        ValueError: A conversation is not a list of messages.
    """
    return RankedResponses(messages(prompt, "user"), tuple(messages(response, "assistant") for response in responses))


def messages(said: Said, role: str) -> Messages:
    """Return text or a conversation as messages; a string becomes one message of a role.

    Raises:
        ValueError: A conversation is not a list of messages.
    """
    if isinstance(said, str):
        return (Message(role, said),)
    return conversation([turn.as_dict() if isinstance(turn, Message) else turn for turn in said], role) if said else ()
