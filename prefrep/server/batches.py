"""Batches over requests: sequences of one prompt, whoever sent them, become branches of one tree.

A request is a record: K sequences with a common prompt. Records that are in flight together are read together. Their sequences are
taken in the order of arrival, up to a budget of distinct tokens; a sequence that two records have in common is read once. The oldest record
always has a sequence in the next batch, so none starves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefrep.data.trees import Datum, Tree
from prefrep.data.trie import Ids
from prefrep.scoring.reading import Reading
from prefrep.scoring.scorer import Scorer

_SCANNED = 512  # records looked at for a batch


@dataclass(eq=False)
class Job:
    """A record that waits, or that is read in parts.

    Args:
        count: K, the number of responses.
        datum: The encoded record.
        finish: Makes the answer of what was read; runs in the model's thread.
        future: Receives the answer.
    """

    count: int
    datum: Datum
    finish: Callable[[Reading], Any]
    future: Future[Any]
    units: deque[_Unit] = field(init=False)
    size: int = field(init=False)
    found: dict[int, Tensor] = field(default_factory=dict)
    prompt: Tensor | None = None

    def __post_init__(self) -> None:
        self.units, self.size = deque(), 0
        for tree in self.datum.trees:
            places = range(self.size, self.size + len(tree.sequences))
            self.size = places.stop
            # A prompt that is not common to all branches keeps its tree: elsewhere, a gate would read another token.
            shared = 0 < tree.prompt < min(map(len, tree.sequences)) and tree.prompt <= tree.shared
            parts = [(i,) for i in range(len(places))] if shared else [tuple(range(len(places)))]
            self.units += [_Unit(tree, shared, part, tuple(places[i] for i in part)) for part in parts]

    @property
    def complete(self) -> bool:
        """Whether all sequences are read."""
        return len(self.found) == self.size

    def reading(self, scorer: Scorer) -> Reading:
        """Return the embeddings in the order of the record."""
        rows = [self.found[i] for i in range(self.size)]
        return Reading(scorer, self.count, torch.stack(rows) if rows else torch.zeros(0, 1), self.prompt, self.datum.annotator)


class _Unit(NamedTuple):
    """What enters a batch as a whole: a sequence that can be a branch of other records' trees, or a tree of its own."""

    tree: Tree
    shared: bool
    sequences: tuple[int, ...]
    places: tuple[int, ...]


class _Branches(NamedTuple):
    """A tree in the making: its sequences, and the places in jobs that wait for each."""

    prompt: int
    sequences: dict[bytes, Ids]
    waiting: dict[bytes, list[tuple[Job, int]]]


@dataclass
class Batch:
    """Sequences for one forward pass.

    Args:
        budget: Distinct tokens; a sequence that exceeds it alone makes a batch of its own.
        shares: Whether the model reads shared prefixes once; else each sequence costs all of its tokens.
    """

    budget: int
    shares: bool = True
    tokens: int = 0
    asked: int = 0
    _branches: dict[tuple[int, bytes], _Branches] = field(default_factory=dict)

    def take(self, jobs: Iterable[Job]) -> None:
        """Take what fits of the jobs, in their order."""
        for job in islice(jobs, _SCANNED):
            while job.units and self._add(job, job.units[0]):
                job.units.popleft()
            if self.tokens >= self.budget:
                return

    def _add(self, job: Job, unit: _Unit) -> bool:
        tree, prompt = unit.tree, unit.tree.prompt
        sequences = [tree.sequences[i] for i in unit.sequences]
        key = (prompt, sequences[0][:prompt].tobytes()) if unit.shared else (-1, id(tree).to_bytes(8, "big"))
        there = self._branches.get(key)
        known = set() if there is None else there.sequences.keys()
        new = [ids for ids in sequences if ids.tobytes() not in known]
        cost = sum(len(ids) for ids in new) - (prompt * len(new) if there and self.shares else 0)
        if new and self.tokens and self.tokens + cost > self.budget:
            return False
        branches = self._branches.setdefault(key, _Branches(prompt, {}, {}))
        for ids, place in zip(sequences, unit.places, strict=True):
            branches.sequences[ids.tobytes()] = ids
            branches.waiting.setdefault(ids.tobytes(), []).append((job, place))
            self.asked += len(ids)
        self.tokens += cost
        return True

    def __len__(self) -> int:
        """Return the number of distinct sequences."""
        return sum(len(each.sequences) for each in self._branches.values())

    @property
    def jobs(self) -> list[Job]:
        """Return the jobs that have a sequence in the batch."""
        found = {id(job): job for each in self._branches.values() for places in each.waiting.values() for job, _ in places}
        return list(found.values())

    def read(self, scorer: Scorer) -> int:
        """Read the sequences and give each job its embeddings.

        Returns:
            The number of tokens that were read.
        """
        trees = [Tree(tuple(each.sequences.values()), each.prompt) for each in self._branches.values()]
        embeddings, prompts, tokens = scorer.read(trees)
        row = 0
        for each in self._branches.values():
            for content in each.sequences:
                for job, place in each.waiting[content]:
                    job.found[place] = embeddings[row]
                    if prompts is not None:
                        job.prompt = prompts[row]
                row += 1
        return tokens
