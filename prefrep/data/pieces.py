"""Tokenisation in pieces between added tokens, each distinct piece of a batch once.

A tokenizer cuts text at its added tokens first, and the parts do not influence each other. So the text of the template, and the prompt
that its responses share, need to be tokenised only once. Hidden control tokens (`data.control`) are tokenised as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefrep.data.control import Unmask, any_of
from prefrep.data.render import Text

_Key = tuple[str, bool]  # a text, and whether control tokens in it are plain text
_PROBES = ("the end", " a  b ", "\n\nx", "Überzug é 你", "")


class Pieces:
    """Tokenises rendered texts without adding special tokens.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = {id: token for id, token in tokenizer.added_tokens_decoder.items() if not token.normalized and token.content}
        self._ids = {token.content: id for id, token in added.items()}
        self._unmask = Unmask(tokenizer)
        special = [token.content for token in added.values() if token.special]
        self._special = any_of(special)
        # Added tokens that strip surrounding spaces, or match only whole words, make cuts inexact.
        exact = not any(token.lstrip or token.rstrip or token.single_word for token in added.values())
        self._cuts = any_of(self._ids) if exact and self._ids else None
        if self._cuts is not None and not self._agrees(special[:3] or list(self._ids)[:3]):
            self._cuts = None

    def _agrees(self, tokens: Sequence[str]) -> bool:
        """Return whether cutting leaves the ids of a few texts unchanged; it does not for tokenizers that mark the beginning of a text."""
        texts = [left + token + right for token in tokens for left in _PROBES for right in _PROBES]
        whole = self._encoded([(text, False) for text in texts])
        return [ids for ids, _ in self([Text(text, 0) for text in texts])] == [found.ids for found in whole]

    def __call__(self, texts: Sequence[Text]) -> list[tuple[list[int], int]]:
        """Return the ids of each text, and how many of its first tokens end in the prompt."""
        cut = [self._cut(text) for text in texts]
        keys = list({(part, text.hidden): None for text, parts in zip(texts, cut, strict=True) for part in parts[::2] if part})
        known = {key: (found, found.ids) for key, found in zip(keys, self._encoded(keys), strict=True)}
        return [self._assembled(text, parts, known) for text, parts in zip(texts, cut, strict=True)]

    def _cut(self, text: Text) -> list[str]:
        """Return the parts of a text: the added tokens at odd indices, and the text between them at even ones."""
        if text.hidden:
            return [self._unmask(part) for part in self._special.split(text.text)]
        return [text.text] if self._cuts is None else self._cuts.split(text.text)

    def _assembled(
        self, text: Text, parts: Sequence[str], known: Mapping[tuple[str, bool], tuple[Any, list[int]]]
    ) -> tuple[list[int], int]:
        ids: list[int] = []
        border, hidden = text.prompt, text.hidden
        prompt, start = 0, 0
        for place, part in enumerate(parts):
            if not part:
                continue
            stop = start + len(part)
            if place % 2:
                ids.append(self._ids[part])
            else:
                encoded, found = known[part, hidden]
                if start < border < stop:
                    prompt = len(ids) + _before(encoded, border - start)
                ids += found
            if stop <= border:
                prompt = len(ids)
            start = stop
        return ids, prompt

    def _encoded(self, keys: Sequence[tuple[str, bool]]) -> list[Any]:
        """Return the encodings of texts; the backend belongs to the caller, so its settings are restored."""
        self._backend.no_truncation()
        self._backend.no_padding()
        found: dict[int, Any] = {}
        before = self._backend.encode_special_tokens
        try:
            for plain in (False, True):
                places = [i for i, (_, literal) in enumerate(keys) if literal is plain]
                if places:
                    self._backend.encode_special_tokens = plain
                    encoded = self._backend.encode_batch([keys[i][0] for i in places], add_special_tokens=False)
                    found |= dict(zip(places, encoded, strict=True))
        finally:
            self._backend.encode_special_tokens = before
        return [found[i] for i in range(len(keys))]


def _before(encoded: Any, border: int) -> int:
    """Return the number of tokens that end at a character or before it."""
    token: int | None = encoded.char_to_token(border)  # None: a space that belongs to no token
    return sum(stop <= border for _, stop in encoded.offsets) if token is None else token
