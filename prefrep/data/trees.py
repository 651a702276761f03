"""Token sequences -> trees -> packed rows: what a batch is when responses share their prompt.

Sequences that begin alike are read once up to the *branch point*, the first place where their token ids differ; every branch then
attends to the shared prefix and to itself alone, at the positions it would have on its own (`functional.trees`). Results equal those
of unshared sequences, whatever a tokenizer merges, because the common prefix is found on token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]
Layout = Literal["trees", "padded"]


@dataclass(frozen=True, slots=True)
class Tree:
    """Token sequences that begin alike.

    Args:
        sequences: Whole sequences, prompt and response, each ending with the token that it is read at.
        prompt: How many tokens lie wholly in the prompt and are common to all sequences; a gate reads the last of them.
    """

    sequences: tuple[Ids, ...]
    prompt: int

    @property
    def shared(self) -> int:
        """Length of the common prefix: at most one less than the shortest sequence, so that each keeps a token to be read at."""
        first, shortest = self.sequences[0], min(len(ids) for ids in self.sequences) - 1
        for ids in self.sequences[1:]:
            different = np.flatnonzero(ids[:shortest] != first[:shortest])
            shortest = int(different[0]) if len(different) else shortest
        return shortest

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        shared = self.shared
        return shared + sum(len(ids) - shared for ids in self.sequences)


@dataclass(frozen=True, slots=True)
class Datum:
    """An encoded record: its trees, and which of their sequences are compared.

    Args:
        trees: One tree for heads that read responses, one per comparison for heads that read pairs.
        pairs: (a, b), indices into the sequences of all trees in turn; a is the preferred one.
        probability: P(a > b) of each pair.
        margin: Margin of each pair, log-odds.
        weight: Weight of each pair in the loss.
    """

    trees: tuple[Tree, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    probability: tuple[float, ...] = ()
    margin: tuple[float, ...] = ()
    weight: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        return sum(tree.size for tree in self.trees)

    def part(self, trees: Sequence[int]) -> Datum:
        """Some of the trees, where each holds the two orders of a comparison."""
        chosen = [tuple(values[i] for i in trees) for values in (self.probability, self.margin, self.weight)]
        return Datum(tuple(self.trees[i] for i in trees), tuple((2 * i, 2 * i + 1) for i in range(len(trees))), *chosen)

    def unweighted(self) -> Datum:
        """The same datum with no say in any loss or metric: fills up the last batch of a distributed epoch."""
        return replace(self, weight=tuple(0.0 for _ in self.weight))


@dataclass(frozen=True)
class TreeBatch:
    """A batch of trees in rows. N trees, M sequences, P pairs, R rows, L tokens in a row.

    Args:
        ids: Token ids [R, L].
        positions: Position of each token on its own path [R, L].
        tree: Tree of each token [R, L]; -1: padding.
        branch: Branch of each token [R, L]; 0: shared prefix. Zero everywhere when `padded`.
        end: Where a sequence is read [M], as an index into the R * L tokens.
        prompt_end: Last prompt token of each sequence's tree [M], as an index into the R * L tokens.
        pairs: Sequences that are compared [P, 2], the preferred one first.
        probability: P(first > second) [P].
        margin: Margins, log-odds [P].
        weight: Weights [P].
        labels: Next-token pairs of the responses [T, 3]: the token that predicts, the token predicted (both as indices into the R * L
            tokens), the sequence. The first token of a branch is predicted by the last token of the shared prefix.
        sizes: Sequences and pairs of each datum [data, 2], to take results apart again.
        padded: One sequence a row and no shared tokens, so that an ordinary causal mask is right.
        states: Hidden states [R, L, H] of the tokens, where they are known already (`data.features`); the backbone is then not asked.
    """

    ids: Tensor
    positions: Tensor
    tree: Tensor
    branch: Tensor
    end: Tensor
    prompt_end: Tensor
    pairs: Tensor
    probability: Tensor
    margin: Tensor
    weight: Tensor
    labels: Tensor
    sizes: Tensor
    padded: bool
    states: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int((self.tree >= 0).sum())

    def _each(self, change: Any) -> TreeBatch:
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        return TreeBatch(**{name: change(value) if isinstance(value, Tensor) else value for name, value in changed.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TreeBatch:
        """The batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which items go into which row.

    Args:
        sizes: Size of each item.
        capacity: Tokens that fit into a row; a larger item gets a row of its own.

    Returns:
        Indices of the items of each row, every item exactly once.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fitting = [row for row, free in enumerate(room) if free >= sizes[item]]
        if fitting:
            best = min(fitting, key=lambda row: (room[row], row))
            rows[best].append(item)
            room[best] -= sizes[item]
        else:
            rows.append([item])
            room.append(capacity - sizes[item])
    return rows


def collate(data: Sequence[Datum], pad_id: int, layout: Layout = "trees", row_tokens: int = 256) -> TreeBatch:
    """Lays out encoded records as one batch.

    Args:
        data: The records.
        pad_id: Token id of padding; any id does, since padding is never attended to nor read.
        layout: `trees`: shared prefixes once, several trees a row. `padded`: every sequence in full, a row each.
        row_tokens: Capacity of a row of trees; a longer tree widens the rows.

    Returns:
        The batch. Its order of sequences and pairs is that of `data`, whatever the layout.
    """
    trees = [tree for datum in data for tree in datum.trees]
    padded = layout == "padded"
    # A piece is what is placed as a whole: (sequence's rank or -1 for a shared prefix, ids, first position, branch).
    pieces: list[list[tuple[int, Ids, int, int]]] = []
    prompt_of: list[tuple[int, int]] = []  # per sequence: its unit (row content) and the offset of its last prompt token in it
    rank = 0
    for tree in trees:
        last_prompt = max(tree.prompt - 1, 0)
        if padded:
            for ids in tree.sequences:
                prompt_of.append((len(pieces), last_prompt))
                pieces.append([(rank, ids, 0, 0)])
                rank += 1
            continue
        shared = tree.shared
        unit: list[tuple[int, Ids, int, int]] = [(-1, tree.sequences[0][:shared], 0, 0)]
        for number, ids in enumerate(tree.sequences, start=1):
            # A prompt that outlasts the shared part belongs to one-sequence trees (or is cut off by the last shared token).
            prompt_of.append((len(pieces), min(last_prompt, shared) if len(tree.sequences) == 1 else min(last_prompt, max(shared - 1, 0))))
            unit.append((rank, ids[shared:], shared, number))
            rank += 1
        pieces.append(unit)

    unit_sizes = [sum(len(ids) for _, ids, _, _ in unit) for unit in pieces]
    rows = [[i] for i in range(len(pieces))] if padded else pack(unit_sizes, max(row_tokens, *unit_sizes))
    length = max(sum(unit_sizes[i] for i in row) for row in rows)
    ids_RL = np.full((len(rows), length), pad_id, dtype=np.int64)
    positions_RL = np.zeros((len(rows), length), dtype=np.int64)
    tree_RL = np.full((len(rows), length), -1, dtype=np.int64)
    branch_RL = np.zeros((len(rows), length), dtype=np.int64)
    begin, end, origin = np.zeros(rank, np.int64), np.zeros(rank, np.int64), np.zeros(len(pieces), np.int64)
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            origin[i] = r * length + at
            for sequence, ids, position, branch in pieces[i]:
                span = slice(at, at + len(ids))
                ids_RL[r, span] = ids
                positions_RL[r, span] = np.arange(position, position + len(ids))
                tree_RL[r, span] = i
                branch_RL[r, span] = branch
                if sequence >= 0:
                    begin[sequence], end[sequence] = r * length + at, r * length + at + len(ids) - 1
                at += len(ids)

    offsets = np.cumsum([0, *(sum(len(tree.sequences) for tree in datum.trees) for datum in data)])
    pairs = [(a + offset, b + offset) for datum, offset in zip(data, offsets, strict=False) for a, b in datum.pairs]
    return TreeBatch(
        ids=torch.from_numpy(ids_RL),
        positions=torch.from_numpy(positions_RL),
        tree=torch.from_numpy(tree_RL),
        branch=torch.from_numpy(branch_RL),
        end=torch.from_numpy(end),
        prompt_end=torch.tensor([int(origin[unit]) + offset for unit, offset in prompt_of]),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        probability=torch.tensor([p for datum in data for p in datum.probability], dtype=torch.float32),
        margin=torch.tensor([m for datum in data for m in datum.margin], dtype=torch.float32),
        weight=torch.tensor([w for datum in data for w in datum.weight], dtype=torch.float32),
        labels=torch.from_numpy(_labels(trees, begin, [int(origin[unit]) for unit, _ in prompt_of], padded)),
        sizes=torch.tensor([[sum(len(t.sequences) for t in d.trees), len(d.pairs)] for d in data]),
        padded=padded,
    )


def _labels(trees: Sequence[Tree], begin: NDArray[np.int64], origin: Sequence[int], padded: bool) -> NDArray[np.int64]:
    """Next-token pairs [T, 3] of every response, along each sequence's own path."""
    found: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    rank = 0
    for tree in trees:
        shared = 0 if padded else tree.shared
        for ids in tree.sequences:
            path = np.concatenate([origin[rank] + np.arange(shared), begin[rank] + np.arange(len(ids) - shared)])
            target = path[max(tree.prompt, 1) :]
            found.append(np.stack([path[max(tree.prompt, 1) - 1 : -1], target, np.full_like(target, rank)], axis=1))
            rank += 1
    return np.concatenate(found)
