"""Hidden states of pairs, in memory or in a file.

Letters: `P` pairs, `H` hidden size.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrep.data.firsts import Ints
from prefrep.data.trees import TreeBatch
from prefrep.disk import piece
from prefrep.room import saving

PART = 8192  # pairs whose states are in memory at a time


class States(NamedTuple):
    """Hidden states of pairs, fp32.

    Args:
        ends: States at the last tokens of (chosen, rejected), or of the two orders of a pair, [P, 2, H].
        prompts: States at the last token of the prompt [P, H].
    """

    ends: Tensor
    prompts: Tensor

    @property
    def pairs(self) -> int:
        """P."""
        return len(self.ends)

    def at(self, index: Sequence[int] | NDArray[Any]) -> States:
        """Return the states of some pairs."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        return States(self.ends[chosen], self.prompts[chosen])

    def loaded(self) -> States:
        """Return the same, see `Spooled`."""
        return self

    def batch(self, probability: Tensor, margin: Tensor | None = None, weight: Tensor | None = None) -> TreeBatch:
        """Return a batch that a module trains on without its backbone.

        Args:
            probability: P(chosen > rejected) [P].
            margin: Margins in log-odds [P]; None: 0.
            weight: Weights [P]; None: 1.
        """
        count = len(self.ends)
        rows = torch.arange(count)
        nothing = torch.zeros(count, 3, dtype=torch.long)
        return TreeBatch(
            ids=nothing, positions=nothing, until=nothing + 1,
            end=torch.stack([3 * rows + 1, 3 * rows + 2], 1).flatten(), prompt_end=(3 * rows).repeat_interleave(2),
            pairs=torch.arange(2 * count).view(-1, 2), probability=probability.float(),
            margin=torch.zeros(count) if margin is None else margin.float(),
            weight=torch.ones(count) if weight is None else weight.float(),
            labels=torch.zeros(0, 3, dtype=torch.long), sizes=torch.tensor([[2, 1]]).repeat(count, 1), padded=True, tokens=3 * count,
            states=torch.cat([self.prompts[:, None], self.ends], 1),
        )  # fmt: skip


class StatesFile:
    """States of pairs in a temporary file, behind each other."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._hidden = self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, states: States) -> None:
        """Append the states of more pairs."""
        self._count, self._hidden = self._count + states.pairs, states.prompts.shape[-1]
        with saving(Path(tempfile.gettempdir())):
            self._file.write(torch.cat([states.ends.flatten(1), states.prompts], 1).contiguous().numpy().tobytes())
            self._file.flush()

    def read(self, places: Ints) -> States:
        """Return the states at some places. Raises DataError: the file lost some."""
        found = torch.empty(len(places), 3, self._hidden)
        size = 12 * self._hidden
        for row, place in zip(found.view(-1, 3 * self._hidden).numpy(), places.tolist(), strict=True):
            row[:] = np.frombuffer(piece(self._file, size, place * size), np.float32)
        return States(found[:, :2], found[:, 2])


class Spooled(NamedTuple):
    """States of pairs that lie in a file, for more pairs than memory holds.

    Args:
        file: The file.
        places: Place of each pair in it [P].
    """

    file: StatesFile
    places: Ints

    @property
    def pairs(self) -> int:
        """P."""
        return len(self.places)

    def at(self, index: Sequence[int] | NDArray[Any]) -> Spooled:
        """Return the states of some pairs, which stay where they are."""
        return Spooled(self.file, self.places[index])

    def loaded(self) -> States:
        """Return the states in memory."""
        return self.file.read(self.places)


def parts(states: States | Spooled) -> Iterator[States]:
    """Yield states in turn, `PART` pairs at a time in memory."""
    return (states.at(np.arange(begin, min(begin + PART, states.pairs))).loaded() for begin in range(0, states.pairs, PART))


def digest(states: States | Spooled) -> str:
    """Return a digest of states."""
    found = hashlib.sha256()
    for part in parts(states):
        for tensor in part:
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
