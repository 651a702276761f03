"""Continuous decoding: prompts are read once, answers that end make room for waiting prompts, and nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefrep.console import tell
from prefrep.data.trie import Ids
from prefrep.functional.drawing import draw
from prefrep.functional.pilaf import tilt
from prefrep.generation.writing import Draws, Written
from prefrep.nn.backbone import Backbone
from prefrep.nn.decoding import SharedCache, read_prompts, read_tokens

# Logits that are in memory at a time. Above 32 MB, glibc maps memory anew each time, which costs as much as the sums over it.
LOGITS = {"cpu": 2**22}


@torch.no_grad()
def write(
    backbone: Backbone,
    prompts: Sequence[Ids],
    answers: Sequence[Sequence[Written]],
    draws: Draws,
    tokens: int,
    reference: Backbone | None = None,
) -> None:
    """Write K answers to each of N prompts.

    Args:
        backbone: A backbone for reading, with the kernel `trees`.
        prompts: Token ids.
        answers: K empty answers per prompt.
        draws: How tokens are drawn.
        tokens: Number of tokens that there is room for in memory at a time; there always is for one prompt with its answers.
        reference: What tilted answers are tilted away from; it reads the same tokens.
    """
    run = _Run([backbone] if reference is None else [backbone, reference], prompts, answers, draws, tokens)
    whole = sum(answer.limit for own in answers for answer in own)
    while count := run.admit() + run.step():
        tell(count, run.settled / whole)


@dataclass(slots=True)
class _Row:
    """An answer that goes on, with its place, the slot of its prompt, and the length of that."""

    answer: Written
    place: int
    slot: int
    length: int


class _Run:
    """Answers that are being written by one model, or by two in step; arguments as those of `write`."""

    def __init__(
        self, models: Sequence[Backbone], prompts: Sequence[Ids], answers: Sequence[Sequence[Written]], draws: Draws, tokens: int
    ) -> None:
        self._models, self._prompts, self._answers, self._draws, self._tokens = models, prompts, answers, draws, tokens
        self._device = next(models[0].parameters()).device
        self._each, longest = len(answers[0]), max(map(len, prompts))
        new = max(row.limit for rows in answers for row in rows)
        written = self._each * new
        self._together = len(prompts) if len(prompts) * (longest + written) <= tokens else max(1, tokens // (2 * longest + written))
        # Twice the slots that are needed at first: the prompt of a last long answer keeps nobody waiting.
        spare = max(0, tokens - self._together * (longest + written)) // longest
        slots, places = min(len(prompts), 2 * self._together, self._together + spare), self._together * self._each
        self.settled = 0  # tokens that are drawn, or that are not needed since their answer has ended
        layers = [model.model.config.get_text_config().num_hidden_layers for model in models]
        self._caches = [SharedCache(count, slots, longest, places, new) for count in layers]
        self._waiting = list(range(len(prompts)))
        self._free_slots, self._free_places = list(range(slots)), list(range(places))
        self._rows: list[_Row] = []
        vocabulary = models[0].model.get_output_embeddings().weight.shape[0]
        self._portion = max(1, LOGITS.get(self._device.type, 2**27) // vocabulary)

    def admit(self) -> int:
        """Read waiting prompts once there is room for a quarter of all; return the number of tokens drawn."""
        room = min(len(self._free_slots), len(self._free_places) // self._each, len(self._waiting))
        if not room or (self._rows and room < min(len(self._waiting), max(1, self._together // 4))):
            return 0
        size = 0  # prompts are read in portions, so that the activations of many long ones fit
        for taken in range(room):
            size += len(self._prompts[self._waiting[taken]])
            if taken and size > self._tokens:
                room = taken
                break
        numbers, self._waiting = self._waiting[:room], self._waiting[room:]
        slots, self._free_slots = self._free_slots[:room], self._free_slots[room:]
        read = [self._prompts[i] for i in numbers]
        hidden = [read_prompts(model, read, slots, cache) for model, cache in zip(self._models, self._caches, strict=True)]
        rows = [
            _Row(answer, self._free_places.pop(0), slot, len(self._prompts[i]))
            for i, slot in zip(numbers, slots, strict=True)
            for answer in self._answers[i]
        ]
        self._rows += rows
        self._draw(rows, [states.repeat_interleave(self._each, 0) for states in hidden])
        return len(rows)

    def step(self) -> int:
        """Read the last token of each answer that goes on and draw the next one; return the number of tokens drawn."""
        rows = self._rows
        if not rows:
            return 0
        known = [(r.answer.ids[-1], r.place, len(r.answer.ids) - 1, r.slot, r.length) for r in rows]
        ids, places, at, slots, lengths = torch.tensor(known).T.contiguous()
        self._draw(
            rows,
            [read_tokens(model, ids, cache, places, at, slots, lengths) for model, cache in zip(self._models, self._caches, strict=True)],
        )
        return len(rows)

    def _logits(self, rows: list[_Row], hidden: list[Tensor]) -> Tensor:
        logits, *reference = (model.logits(states).float() for model, states in zip(self._models, hidden, strict=True))
        if not reference:
            return logits
        return tilt(logits, reference[0], torch.tensor([[row.answer.tilt] for row in rows], device=self._device))

    def _draw(self, rows: list[_Row], hidden: list[Tensor]) -> None:
        """Draw a token for each row, and drop those that have ended."""
        for start in range(0, len(rows), self._portion):
            some, states = rows[start : start + self._portion], [each[start : start + self._portion] for each in hidden]
            uniform = torch.tensor([row.answer.uniform() for row in some], dtype=torch.float64, device=self._device)
            drawn = draw(self._logits(some, states), uniform, *self._draws)
            numbers = torch.stack([each.double() for each in drawn]).tolist()  # at once: each transfer waits for a GPU
            for row, token, logprob, entropy in zip(some, *numbers, strict=True):
                row.answer.append(int(token), logprob, entropy)
                self.settled += 1 + (row.answer.limit - len(row.answer.ids)) * row.answer.ended
        self._free_places += [row.place for row in self._rows if row.answer.ended]
        before = {row.slot for row in self._rows}
        self._rows = [row for row in self._rows if not row.answer.ended]
        self._free_slots += sorted(before - {row.slot for row in self._rows})
        if not self._waiting and 0 < 2 * len(self._rows) <= self._caches[0].sizes[2]:
            self._compact()

    def _compact(self) -> None:
        """Forget what no answer needs any more, since attention reads all places."""
        slots, places = sorted({row.slot for row in self._rows}), [row.place for row in self._rows]
        for cache in self._caches:
            cache.compact(torch.tensor(slots, device=self._device), torch.tensor(places, device=self._device))
        for place, row in enumerate(self._rows):
            row.slot, row.place = slots.index(row.slot), place
        self._free_slots, self._free_places = [], []
