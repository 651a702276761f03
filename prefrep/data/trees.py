"""Token sequences -> trees -> packed rows: batches with prefix sharing.

The model reads a common prefix once, up to the *branch point*, the first position where token ids differ. Each branch attends to the prefix
and to itself, at the positions of a separate sequence (`functional.trees`). The prefix is found on token ids, so results equal those of
separate sequences, whatever the tokenizer merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrep.annotators import Annotators
from prefrep.errors import ConfigError

Ids = NDArray[np.int32]
Layout = Literal["trees", "padded"]

NOBODY = -1  # second of a pair: a label of a single response, compared with the reward 0


@dataclass(frozen=True, slots=True)
class Tree:
    """Token sequences with a common prefix.

    Args:
        sequences: Complete sequences of prompt and response, each read at its last token.
        prompt: Number of tokens that lie entirely in the prompt and that all sequences share; a gate reads the last of them.
    """

    sequences: tuple[Ids, ...]
    prompt: int

    @property
    def shared(self) -> int:
        """Length of the common prefix, less than that of the shortest sequence, so that every branch has a token to read."""
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as bytes: `data.spool` reads no pickles that name NumPy's functions, and these are smaller."""
        return unpacked, (tuple(ids.astype(np.int32, copy=False).tobytes() for ids in self.sequences), self.prompt)


def unpacked(sequences: tuple[bytes, ...], prompt: int) -> Tree:
    """Return a tree that was pickled."""
    return Tree(tuple(np.frombuffer(ids, np.int32) for ids in sequences), prompt)


@dataclass(frozen=True, slots=True)
class Datum:
    """An encoded record: its trees, and the pairs of sequences to compare.

    Args:
        trees: One tree for heads that read responses, one per comparison for heads that read pairs.
        pairs: (preferred, other), as indices into the sequences of all trees; the other can be `NOBODY`.
        probability: P(a > b) of each pair.
        margin: Margin of each pair, log-odds.
        weight: Weight of each pair in the loss.
        annotator: Who judged, or is asked; empty: nobody in particular.
    """

    trees: tuple[Tree, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    probability: tuple[float, ...] = ()
    margin: tuple[float, ...] = ()
    weight: tuple[float, ...] = ()
    annotator: str = ""

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        return sum(tree.size for tree in self.trees)

    def part(self, trees: Sequence[int]) -> Datum:
        """Return a datum of some of the trees, each of which holds both orders of a comparison."""
        probability, margin, weight = (tuple(values[i] for i in trees) for values in (self.probability, self.margin, self.weight))
        pairs = tuple((2 * i, 2 * i + 1) for i in range(len(trees)))
        return Datum(tuple(self.trees[i] for i in trees), pairs, probability, margin, weight, self.annotator)

    def unweighted(self) -> Datum:
        """Return the datum with weight 0, which fills up the last batch of a distributed epoch."""
        return replace(self, weight=tuple(0.0 for _ in self.weight))


@dataclass(frozen=True)
class TreeBatch:
    """A batch of trees in rows. N trees, M sequences, P pairs, R rows, L tokens per row.

    Args:
        ids: Token ids [R, L].
        positions: Position of each token on its own path [R, L].
        tree: Tree of each token [R, L]; -1: padding.
        branch: Branch of each token [R, L]; 0: shared prefix. All zero when `padded`.
        end: Last token of each sequence [M], as an index into the R * L tokens.
        prompt_end: Last prompt token of each sequence's tree [M], as an index into the R * L tokens.
        pairs: Indices of compared sequences [P, 2], the preferred one first; the second can be `NOBODY`.
        probability: P(first > second) [P].
        margin: Margins in log-odds [P].
        weight: Weights in the loss [P].
        labels: Next-token labels of the responses [T, 3]: predicting token, predicted token (both as indices into the R * L tokens),
            sequence. The last token of the shared prefix predicts the first token of each branch.
        sizes: Numbers of sequences and pairs of each datum [data, 2], to split results by datum.
        padded: One sequence per row without sharing, so that a causal mask suffices.
        states: Hidden states [R, L, H] of the tokens, if they are cached (`data.features`); the model then skips the backbone.
        annotator: Index of who judged each pair [P], -1: the population (`prefrep.annotators`); None: the model does not ask.
        surplus: Number of final tokens of each sequence that a policy would not sample [M]; None: the model is no policy.
        reference: log pi_0 of each sequence [M] (`data.offline`); None: the loss needs none.
        mismatched: Sequence of each datum that is a response to another prompt [data]; None: there is none.
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
    annotator: Tensor | None = None
    surplus: Tensor | None = None
    reference: Tensor | None = None
    mismatched: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int((self.tree >= 0).sum())

    def _each(self, change: Any) -> TreeBatch:
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        return TreeBatch(**{name: change(value) if isinstance(value, Tensor) else value for name, value in changed.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """Return the batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TreeBatch:
        """Return the batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def asking(self, data: Sequence[Datum], annotators: Annotators | None) -> TreeBatch:
        """Return the batch with the annotators of its pairs; None: the model answers everybody alike, and the batch stays as it is.

        Args:
            data: What was collated.
            annotators: Whom the model knows.
        """
        if annotators is None:
            return self
        return replace(self, annotator=torch.tensor(annotators.indices(each.annotator for each in data for _ in each.pairs)))


def batch_layout(wanted: Literal["auto", "trees", "padded"], supported: bool) -> Layout:
    """Return the layout of batches: `auto` is `trees` if the backbone supports tree masks.

    Raises:
        ConfigError: `trees` without that support.
    """
    if wanted == "trees" and not supported:
        raise ConfigError("layout: trees needs a backbone that supports tree masks, and this one does not; use layout: auto or padded")
    return "trees" if supported and wanted != "padded" else "padded"


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into rows by best-fit decreasing.

    Args:
        sizes: Size of each item.
        capacity: Tokens per row; a larger item gets a row of its own.

    Returns:
        Indices of the items of each row; every item occurs once.
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
    """Collate encoded records into a batch.

    Args:
        data: The records.
        pad_id: Token id of padding; any id will do, since padding is masked.
        layout: `trees`: prefix sharing, several trees per row. `padded`: one complete sequence per row.
        row_tokens: Capacity of a row of trees; a longer tree widens the rows.

    Returns:
        The batch, with sequences and pairs in the order of `data`, whatever the layout.
    """
    trees = [tree for datum in data for tree in datum.trees]
    padded = layout == "padded"
    # Each unit of row content is a list of pieces: (index of the sequence or -1 for a shared prefix, ids, first position, branch).
    pieces: list[list[tuple[int, Ids, int, int]]] = []
    prompt_of: list[tuple[int, int]] = []  # per sequence: its unit, and the offset of its last prompt token there
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
            # Only the prompt of a one-sequence tree can extend beyond the shared prefix.
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
    pairs = [
        (a + offset, NOBODY if b == NOBODY else b + offset) for datum, offset in zip(data, offsets, strict=False) for a, b in datum.pairs
    ]
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
    """Return the next-token labels [T, 3] of every response, along the path of its sequence."""
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
