"""Text -> token ids: exactly one BOS where the model has one, exactly one EOS at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefrep.data.pieces import Pieces
from prefrep.data.recipes import SEGMENTS, Segments
from prefrep.data.render import CHATS, FOREIGN, Template, Text
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError


class TextTokenizer:
    """Tokenises rendered texts.

    Args:
        tokenizer: A fast Hugging Face tokenizer with an EOS token.
        template: See `EncodeConfig`.

    Attributes:
        counts: Counts texts whose segments are cut to limits of their own (`data.recipes`).
        bos: Id of the BOS token; None if the tokenizer adds none.
        eos: Id of the EOS token.
        ends: Id that a cut response still ends in; None: texts need not end in one.

    Raises:
        ConfigError: The tokenizer is slow, has no EOS token, or no chat template where the template needs one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
        name = tokenizer.name_or_path
        if not tokenizer.is_fast:
            raise ConfigError(f"{name}: prefrep needs character offsets and this tokenizer is slow; use one with a tokenizer.json")
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"{name}: the tokenizer has no EOS token, where responses are read; set one in its folder")
        if template in CHATS and not tokenizer.chat_template:
            raise ConfigError(f"{name}: template '{template}' needs a chat template and this tokenizer has none; use template: plain")
        self._tokenizer, self._template = tokenizer, template
        self.counts: Counter[str] = Counter()
        self._pieces = Pieces(tokenizer)
        ids, bos = tokenizer("a")["input_ids"], tokenizer.bos_token_id
        self.bos: int | None = bos if bos is not None and ids[:1] == [bos] else None
        self.eos = int(tokenizer.eos_token_id)
        self.ends: int | None = self.eos if template not in SEGMENTS or ids[-1:] == [self.eos] else None

    @property
    def start(self) -> str:
        """Text in front of responses without a prompt, for a gate to read a token that all responses share; empty if that is the BOS."""
        return "" if self.bos is not None else str(self._tokenizer.bos_token or self._tokenizer.eos_token)

    def __call__(self, texts: Sequence[Text]) -> list[tuple[Ids, int]]:
        """Return the ids of each text and how many of them belong to the prompt, before truncation."""
        if not texts:
            return []
        if self._template == "official":
            return self._official(texts)
        if self._template in SEGMENTS:
            return [self._joined(text, SEGMENTS[self._template]) for text in texts]
        results: list[tuple[Ids, int]] = []
        for text, (ids, prompt) in zip(texts, self._pieces(texts), strict=True):
            ids, prompt = self._ended(ids, prompt, text.ends)
            results.append((np.asarray(ids, np.int32), min(prompt, len(ids) - 1)))
        return results

    def _official(self, texts: Sequence[Text]) -> list[tuple[Ids, int]]:
        encoded = self._tokenizer([text.text for text in texts], add_special_tokens=True)["input_ids"]
        return [
            (np.asarray(ids, np.int32), len(self._tokenizer(text.first)["input_ids"])) for text, ids in zip(texts, encoded, strict=True)
        ]

    def _joined(self, text: Text, how: Segments) -> tuple[Ids, int]:
        """Return the ids of a text in segments."""
        if how.together:
            encoded = self._tokenizer(*text.parts, return_offsets_mapping=True)
            places = zip(encoded.sequence_ids(), encoded["offset_mapping"], strict=True)
            # Of one text, tokens that end in the prompt; of two, those of the first. Special tokens belong to what follows.
            inside = [i for i, (part, (_, stop)) in enumerate(places) if part == 0 and (len(text.parts) > 1 or stop <= text.prompt)]
            return np.asarray(encoded["input_ids"], np.int32), inside[-1] + 1 if inside else 0
        *before, _, _ = parts = [self._tokenizer(part)["input_ids"] for part in text.parts]
        assert how.limits is not None
        marked, whole = (len(before[0]) if len(before) > 1 else 0), list(parts)
        whole[len(before) - 1] = self._cut(before[-1], how.limits[0] - marked, how.left)
        left = (how.limits[1] - sum(map(len, whole[: len(before)]))) // 2
        whole[len(before) :] = [self._cut(ids, left, False) for ids in parts[len(before) :]]
        if whole != parts:
            self.counts["texts with segments cut to their limits"] += 1
        return np.asarray([token for ids in whole for token in ids], np.int32), sum(map(len, whole[: len(before)]))

    def _cut(self, ids: list[int], limit: int, left: bool) -> list[int]:
        """Return a segment without its end, or its beginning, that keeps its special tokens, as tokenizers truncate."""
        if len(ids) <= limit:
            return ids
        start, stop = int(self.bos is not None), int(self.ends is not None)
        inner, room = ids[start : len(ids) - stop], max(limit - start - stop, 0)
        return [*ids[:start], *(inner[len(inner) - room :] if left else inner[:room]), *ids[len(ids) - stop :]]

    def _ended(self, ids: list[int], prompt: int, ends: bool) -> tuple[list[int], int]:
        """Return the ids up to the token that is read: our frame, or what the recipe of another program makes of the text."""
        if self._template not in FOREIGN:
            return self._framed(ids, prompt, ends)
        while self._template == "classifier" and len(ids) > 1 and ids[-1] == self._tokenizer.pad_token_id:
            ids.pop()  # transformers' sequence classifiers skip pad tokens at the end
        return ids, prompt

    def _framed(self, ids: list[int], prompt: int, ends: bool) -> tuple[list[int], int]:
        """Set exactly one BOS and, if the text ends, one EOS, however many the template wrote."""
        if self.bos is not None:
            written = next((i for i, token in enumerate(ids) if token != self.bos), len(ids))
            ids, prompt = [self.bos, *ids[written:]], max(prompt - written, 0) + 1
        if ends:
            while ids and ids[-1] == self.eos:
                ids.pop()
            ids.append(self.eos)
        return ids, prompt
