"""Control tokens inside texts: `<|im_end|>` in a prompt or a response is text and must not end a turn.

Renderings are tokenised as a whole, where a control token of the template cannot be distinguished from one that a text spells out.
So characters of control tokens inside texts are shifted to a private-use plane of Unicode before rendering (`Mask.hide`), and shifted back
when the text between the template's own control tokens is tokenised as plain text (`Unmask`). Character positions stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefrep.records import Message, Messages

_SHIFT = 0xF0000  # a private-use plane; control tokens have characters of the basic plane


class Mask:
    """Hides the control tokens of a tokenizer in texts.

    Args:
        tokenizer: The tokenizer; its special added tokens are control tokens.
        endings: Tokens that end a response. They are removed from the end of a response, since the encoder writes the end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, endings: tuple[str, ...]) -> None:
        self._control = any_of(_tokens_of(tokenizer))
        self._ending = re.compile("(?:" + "|".join(re.escape(token) + r"\s*" for token in endings) + r")+\Z") if endings else None
        self._endings = endings

    def found(self, messages: Iterable[Message]) -> str | None:
        """Return a control token in the texts of messages; None: there is none."""
        for message in messages:
            if match := self._control.search(message.content):
                return match[0]
            if message.fields and (match := self._control.search(repr(message.fields))):
                return match[0]
        return None

    def ended(self, response: Messages) -> Messages:
        """Return a response without the tokens that end it."""
        content = response[-1].content
        if self._ending is None or not any(token in content for token in self._endings):
            return response
        return (*response[:-1], replace(response[-1], content=self._ending.sub("", content)))

    def hide(self, messages: Messages) -> Messages:
        """Return messages whose control tokens are hidden."""
        return tuple(Message(m.role, self._hidden(m.content), self._within(m.fields)) for m in messages)

    def _hidden(self, text: str) -> str:
        return self._control.sub(lambda match: _shifted(match[0], _SHIFT), text)

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, Mapping):
            return {key: self._within(inner) for key, inner in value.items()}
        return [self._within(inner) for inner in value] if isinstance(value, list) else value


class Unmask:
    """Shifts hidden control tokens back; other characters for private use, such as those of icon fonts, stay.

    Args:
        tokenizer: The tokenizer of the `Mask`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._hidden = any_of(_shifted(token, _SHIFT) for token in _tokens_of(tokenizer))

    def __call__(self, text: str) -> str:
        """Return a text without hidden control tokens."""
        return self._hidden.sub(lambda match: _shifted(match[0], -_SHIFT), text)


def _tokens_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special and all(ord(char) < 0x10000 for char in token.content)]


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of some tokens, the longest first, in a group."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")


def _shifted(text: str, by: int) -> str:
    return "".join(chr(ord(char) + by) for char in text)
