"""Answers while they are written: their tokens, their random numbers, and when they end."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    """How tokens are drawn; see `functional.drawing.draw`."""

    temperature: float
    top_k: int
    top_p: float


class Written:
    """An answer that is being written.

    Args:
        limit: Maximum number of tokens.
        ends: Tokens that end an answer.
        seed: What its random numbers follow from.
        tilt: How far the policy is tilted away from its reference while it writes, see `functional.pilaf.tilt`.
    """

    def __init__(self, limit: int, ends: Collection[int], seed: tuple[int, ...], tilt: float = 0.0) -> None:
        self.limit, self.ends, self.tilt = limit, ends, tilt
        self.ids: list[int] = []
        self.logprob = self.entropy = 0.0
        self._numbers = np.random.default_rng(seed).random(limit)

    @property
    def finished(self) -> bool:
        """Whether it ended in one of `ends`."""
        return bool(self.ids) and self.ids[-1] in self.ends

    @property
    def ended(self) -> bool:
        """Whether it is complete."""
        return self.finished or len(self.ids) == self.limit

    def uniform(self) -> float:
        """Return the random number of the next token, in [0, 1)."""
        return float(self._numbers[min(len(self.ids), self.limit - 1)])

    def append(self, token: int, logprob: float, entropy: float) -> None:
        """Add a token."""
        self.ids.append(token)
        self.logprob += logprob
        self.entropy += entropy
