"""Judges that write in this process, with transformers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.generation import TransformersSampler
from prefrep.io.fingerprint import fingerprint
from prefrep.judges.writing.asking import Question
from prefrep.judges.writing.reading import TAIL, Reply
from prefrep.judges.writing.writers import Proceed, Received, always, unkept
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import DType, device_of
from prefrep.records import Messages

ALTERNATIVES = 20  # tokens listed beside the one that was said, as many as hosted servers list


class LocalWriter:
    """A language model in this process.

    Style `letter` takes one forward pass and no generation; with `constraint: choice` only labels can be said. Answers with reasons are
    sampled, then read once more for the probabilities of their last tokens.

    Args:
        path: Bundled model, folder or hub id.
        dtype: Type of its weights.
        device: `auto`: CUDA if available.
        batch_size: Questions answered together.
        trust_remote_code: Run Python code from the folder, see `Backbone`.
    """

    def __init__(
        self, path: str, dtype: DType = "float32", device: str = "auto", batch_size: int = 8, trust_remote_code: bool = False
    ) -> None:
        self.path, self.batch_size, self._dtype, self._trusted = path, batch_size, dtype, trust_remote_code
        self._device = device_of(device)

    def who(self) -> dict[str, Any]:
        """See `Writer`."""
        stated = {"model": self.path, "dtype": self._dtype}
        return {**stated, "fingerprint": fingerprint(self.path)} if Path(self.path).is_dir() else stated

    def load(self) -> None:
        """See `Writer`."""
        _ = self.backbone

    @cached_property
    def backbone(self) -> Backbone:
        """The model, loaded on first use. Raises CheckpointError: it cannot be loaded."""
        return Backbone(self.path, self._dtype, frozen=True, trust_remote_code=self._trusted).to(self._device).eval()

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.backbone.tokenizer(), EncodeConfig(), "single")

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        """Token ids by what they say without space around it: of single characters, since labels of one token are those."""
        tokenizer, found = self.backbone.tokenizer(), dict[str, list[int]]()
        for token in range(len(tokenizer)):
            if len(said := str(tokenizer.decode([token])).strip()) == 1:
                found.setdefault(said.upper(), []).append(token)
        return found

    def ask(self, questions: Sequence[Question], proceed: Proceed = always, received: Received = unkept) -> Generator[tuple[int, Reply]]:
        """See `Writer`."""
        ids = self._encoder.prompts([each.messages for each in questions])
        room = self.backbone.room
        groups: dict[Any, list[int]] = {}
        for place, each in enumerate(questions):
            longest = 1 if each.style == "letter" else each.max_tokens
            if room is not None and len(ids[place]) + longest > room:
                refused = Reply(f"{len(ids[place])} tokens and {longest} for the answer do not fit into {room}", "refused")
                received(place, refused)
                yield place, refused
            elif each.style == "letter":
                groups.setdefault((each.style, each.constraint, each.labels), []).append(place)
            else:  # what is drawn for one question must not depend on those beside it
                alone = place if each.temperature > 0 else None
                groups.setdefault((each.style, each.max_tokens, each.temperature, alone), []).append(place)
        for places in groups.values():
            places.sort(key=lambda place: len(ids[place]))
            for at in range(0, len(places), self.batch_size):
                if not proceed():
                    return
                some = places[at : at + self.batch_size]
                lengths = [len(ids[place]) for place in some]
                asked = [questions[place] for place in some]
                letters = asked[0].style == "letter"
                answers = self._letters(asked, [ids[place].tolist() for place in some]) if letters else self._reasons(asked, lengths)
                for place, reply in zip(some, answers, strict=True):
                    received(place, reply)
                yield from zip(some, answers, strict=True)

    @torch.no_grad()
    def _letters(self, questions: Sequence[Question], ids: Sequence[Sequence[int]]) -> list[Reply]:
        """Answer with the most probable first token, or the most probable label."""
        logits = self._last(ids, 1)[:, 0]
        first = questions[0]
        if first.constraint == "choice":
            kept = torch.full_like(logits, -torch.inf)
            allowed = [token for label in first.labels for token in self._by_text.get(label.upper(), ())]
            kept[:, allowed] = logits[:, allowed]
            logits = kept
        found = []
        for row, asked in zip(logits.log_softmax(-1), ids, strict=True):
            tail = self._listed(row, int(row.argmax()))
            found.append(Reply(tail[0], "stop", (tail,), len(asked), 1))
        return found

    def _reasons(self, questions: Sequence[Question], lengths: Sequence[int]) -> list[Reply]:
        first = questions[0]
        sampler = TransformersSampler(temperature=first.temperature, top_p=1.0, max_new_tokens=first.max_tokens)
        drawn = [
            texts[0] for texts in sampler.sample(self.backbone, [each.messages for each in questions], 1, [each.seed for each in questions])
        ]
        tokenizer, found = self.backbone.tokenizer(), []
        for each, sampled, length in zip(questions, drawn, lengths, strict=True):
            said = list(tokenizer(sampled.lead + sampled.text, add_special_tokens=False)["input_ids"])
            tail = self._tail(each.messages, said) if said else ()
            found.append(Reply(sampled.text, "stop" if sampled.finished else "length", tail, length, len(said)))
        return found

    @torch.no_grad()
    def _tail(self, messages: Messages, said: list[int]) -> tuple[tuple[str, Mapping[str, float]], ...]:
        """Return the last tokens of an answer with their alternatives."""
        ids, count = [*self._encoder.prompts([messages])[0], *said], min(TAIL, len(said))
        rows = self._last([ids], count + 1)[0, :-1].log_softmax(-1)
        return tuple(self._listed(row, token) for row, token in zip(rows, said[-count:], strict=True))

    def _last(self, ids: Sequence[Sequence[int]], count: int) -> Tensor:
        """Return the logits at the last positions of sequences, [N, count, V]."""
        longest = max(map(len, ids))
        rows = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros_like(rows)
        for number, each in enumerate(ids):
            rows[number, longest - len(each) :] = torch.as_tensor(list(each))
            mask[number, longest - len(each) :] = 1
        rows, mask = rows.to(self._device), mask.to(self._device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        found: Tensor = self.backbone.model(
            input_ids=rows, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=count
        ).logits
        return found.float()

    def _listed(self, row: Tensor, said: int) -> tuple[str, dict[str, float]]:
        """Return a token's text and the most probable texts in its place with their log-probabilities."""
        tokenizer, listed = self.backbone.tokenizer(), dict[str, float]()
        values, tokens = row.topk(min(ALTERNATIVES, len(row)))
        for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
            if value > -torch.inf:
                listed.setdefault(str(tokenizer.decode([token])), round(value, 6))  # of tokens with one text the most probable
        return str(tokenizer.decode([said])), listed
