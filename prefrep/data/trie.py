"""Token sequences as a trie: every prefix that several of them share stands there once.

A trie is laid out depth first, so that what sees a token is one interval: the token itself and everything below it. One number per token,
where that interval ends, says the whole attention pattern (`functional.trees`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Ints = NDArray[np.int64]


class Laid(NamedTuple):
    """The tokens of a trie, depth first. T distinct tokens.

    Args:
        ids: Token ids [T].
        positions: Number of tokens above each [T].
        until: Place just past the last token below each, or past the token itself [T].
    """

    ids: Ids
    positions: Ints
    until: Ints


@dataclass(slots=True)
class _Node:
    """Tokens in a row, after which sequences part or end."""

    ids: Ids
    below: dict[int, _Node] = field(default_factory=dict)
    start: int = 0  # where it is laid out, and where what is below it ends
    until: int = 0


class Trie:
    """A growing trie.

    Args:
        sequences: Sequences to begin with.

    Attributes:
        size: Number of distinct tokens, i.e. of distinct non-empty prefixes of the sequences.
    """

    def __init__(self, sequences: Iterable[Ids] = ()) -> None:
        self._root = _Node(np.zeros(0, np.int32))
        self.size = 0
        for ids in sequences:
            self.add(ids)

    def add(self, ids: Ids) -> None:
        """Add a sequence."""
        node, at = self._root, 0
        while at < len(ids):
            child = node.below.get(int(ids[at]))
            if child is None:
                node.below[int(ids[at])] = _Node(ids[at:])
                self.size += len(ids) - at
                return
            alike = common(child.ids, ids[at:])
            at += alike
            if alike < len(child.ids) and at < len(ids):  # they part within the node
                rest = _Node(child.ids[alike:], child.below)
                child.ids, child.below = child.ids[:alike], {int(rest.ids[0]): rest}
            node = child

    def laid(self) -> Laid:
        """Lay the trie out; `path` then finds its sequences."""
        order: list[tuple[_Node, int]] = []
        waiting = [(self._root, 0)]
        at = 0
        while waiting:
            node, depth = waiting.pop()
            node.start = at
            at += len(node.ids)
            order.append((node, depth))
            waiting += [(child, depth + len(node.ids)) for child in reversed(node.below.values())]
        for node, _ in reversed(order):
            last = next(reversed(node.below.values()), None)
            node.until = node.start + len(node.ids) if last is None else last.until
        return Laid(
            np.concatenate([node.ids for node, _ in order]),
            np.concatenate([np.arange(depth, depth + len(node.ids)) for node, depth in order]),
            np.concatenate([np.full(len(node.ids), node.until) for node, _ in order]),
        )

    def path(self, ids: Ids) -> Ints:
        """Return the places of the tokens of an added sequence, as they were last laid out [len(ids)]."""
        parts: list[Ints] = [np.zeros(0, np.int64)]
        node, at = self._root, 0
        while at < len(ids):
            node = node.below[int(ids[at])]
            count = min(len(node.ids), len(ids) - at)
            parts.append(np.arange(node.start, node.start + count))
            at += count
        return np.concatenate(parts)


def common(a: Ids, b: Ids) -> int:
    """Return the number of tokens with which two sequences begin alike."""
    least = min(len(a), len(b))
    different = np.flatnonzero(a[:least] != b[:least])
    return int(different[0]) if len(different) else least
