"""Pairs with known labels, whose states are given instead of read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefrep.labels.base import Work
from prefrep.labels.rows import Labelled
from prefrep.labels.states import States
from prefrep.nn.heads import PreferenceHead
from prefrep.records import Comparison, Message


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Labelled:
    """A pair of texts."""
    return Labelled(Comparison((Message("user", prompt),), (Message("assistant", chosen),), (Message("assistant", rejected),), **more))


class Given(Work):
    """States by the text of each response, and of each prompt.

    Args:
        vectors: State of each text [H].
        folder: See `Work`.
    """

    def __init__(self, vectors: dict[str, np.ndarray[Any, Any]], folder: Path) -> None:
        super().__init__("none", folder)
        self._vectors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in vectors.items()}

    def states(self, pairs: Sequence[Comparison], head: PreferenceHead | None = None) -> States:
        """The given states."""
        assert head is None or head.layout == "single"
        ends = [torch.stack([self._vectors[side[-1].content] for side in (each.chosen, each.rejected)]) for each in pairs]
        nothing = torch.zeros_like(ends[0][0])
        prompts = [self._vectors.get(each.prompt[-1].content, nothing) if each.prompt else nothing for each in pairs]
        return States(torch.stack(ends), torch.stack(prompts))


def linear(n: int, d: int, flips: float, seed: int) -> tuple[list[Labelled], dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Pairs whose better answer a linear reward w = 3 g / sqrt(d) knows, with a share of labels flipped; which ones, [n]."""
    draw = np.random.default_rng(seed)
    w = 3 * draw.standard_normal(d) / np.sqrt(d)
    pairs, vectors = [], {}
    wrong = draw.permutation(n) < round(flips * n)
    for i in range(n):
        a, b = draw.standard_normal((2, d)) / np.sqrt(2)
        if ((a - b) @ w > 0) == wrong[i]:
            a, b = b, a
        vectors |= {f"a{i}": a, f"b{i}": b}
        pairs.append(pair(f"p{i}", f"a{i}", f"b{i}"))
    return pairs, vectors, wrong
