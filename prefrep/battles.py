"""Battles: two systems answered one prompt, and somebody said whose answer is better. One is a record, many are columns.

Letters: `N` battles, `K` systems, `F` features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

LEFT, TIE, RIGHT = 1.0, 0.5, 0.0


@dataclass(frozen=True, slots=True)
class Battle:
    """One verdict on two systems.

    Args:
        left: Name of a system.
        right: Name of the other.
        outcome: P(left is better) as the judge said it: 1 a win of the left one, 0 of the right one, 0.5 a tie; None: no verdict, which is
            not a tie.
        prompt: What both answered; empty: unknown, so that the battle shares its prompt with no other.
        judge: Who said so.
        category: Kind of prompt.
        first: 1: the answer of the left one was shown first; -1: that of the right one; 0: unknown.
        weight: How often the verdict counts.
        features: Of both answers by name, as (left, right): lengths, headings, lists.

    Raises:
        ValueError: A system is not named or meets itself, or a number is outside its range.
    """

    left: str
    right: str
    outcome: float | None
    prompt: str = ""
    judge: str = ""
    category: str = ""
    first: int = 1
    weight: float = 1.0
    features: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.left or not self.right:
            raise ValueError("a battle has a system without a name")
        if self.left == self.right:
            raise ValueError(f"{self.left} meets itself")
        if self.outcome is not None and not 0 <= self.outcome <= 1:
            raise ValueError(f"an outcome must lie in [0, 1], got {self.outcome}")
        if self.first not in (1, 0, -1):
            raise ValueError(f"first must be 1, 0 or -1, got {self.first}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"a weight must be 0 or more, got {self.weight}")


@dataclass(frozen=True, eq=False)
class Battles:
    """Many battles that have a verdict, by column.

    Args:
        systems: Names of the K systems; `left` and `right` are places here.
        judges: Names, for `judge`.
        prompts: Names, for `prompt`.
        categories: Names, for `category`.
        left: [N].
        right: [N].
        outcome: P(left is better), [N].
        prompt: [N]; -1: unknown.
        judge: [N].
        category: [N].
        first: 1, 0 or -1, see `Battle`, [N].
        weight: [N].
        features: (left, right) of each by name, [N, 2].
    """

    systems: tuple[str, ...]
    judges: tuple[str, ...]
    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    left: Codes
    right: Codes
    outcome: Floats
    prompt: Codes
    judge: Codes
    category: Codes
    first: Floats
    weight: Floats
    features: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return some battles, with the same systems, judges, prompts and categories.

        Args:
            rows: Places, or a mask [N].
        """
        columns: dict[str, Any] = {each.name: getattr(self, each.name)[rows] for each in fields(self) if each.name in _COLUMNS}
        return replace(self, **columns, features={name: values[rows] for name, values in self.features.items()})

    def met(self) -> Self:
        """Return the same battles without systems that have none."""
        import numpy as np

        there = np.unique(np.concatenate([self.left, self.right]))
        if len(there) == len(self.systems):
            return self
        place = np.zeros(len(self.systems), dtype=np.int64)
        place[there] = np.arange(len(there))
        return replace(self, systems=tuple(self.systems[i] for i in there), left=place[self.left], right=place[self.right])


_COLUMNS = ("left", "right", "outcome", "prompt", "judge", "category", "first", "weight")
