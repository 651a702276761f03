"""Token sequences -> trees -> packed rows: batches with prefix sharing.

The model reads a common prefix once, up to the *branch point*, the first position where token ids differ. Each branch attends to its path
and to itself, at the positions of a separate sequence (`functional.trees`). Prefixes are found on token ids, so results equal those of
separate sequences, whatever the tokenizer merges. Records that begin alike (a system prompt, a rubric, an earlier turn) may share that.
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
from prefrep.data.trie import Ids, Trie, common
from prefrep.errors import ConfigError

ROW_TOKENS = 256  # of a row of trees, unless somebody wants another capacity
Layout = Literal["trees", "padded"]

ALIKE = 16  # data that begin with so many equal tokens may share them: a system prompt (a template's own has about 30), a rubric, a prompt
WIDE = 8  # under a dense mask a group is at most so many times what all of it share: wider ones save little, and the mask is its square
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
        shortest = min(len(ids) for ids in self.sequences) - 1
        return min((common(self.sequences[0][:shortest], ids) for ids in self.sequences[1:]), default=shortest)

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        return Trie(self.sequences).size

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
    def sequences(self) -> list[Ids]:
        """The sequences of all trees."""
        return [ids for tree in self.trees for ids in tree.sequences]

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        return Trie(self.sequences).size

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
    """A batch of trees in rows. M sequences, P pairs, R rows, L tokens per row.

    Args:
        ids: Token ids [R, L].
        positions: Position of each token on its own path [R, L].
        until: Place in its row just past the last token that sees each token [R, L] (`functional.trees`); 0: padding.
        end: Last token of each sequence [M], as an index into the R * L tokens. Equal sequences have the same.
        prompt_end: Last prompt token of each sequence's tree [M], as an index into the R * L tokens.
        pairs: Indices of compared sequences [P, 2], the preferred one first; the second can be `NOBODY`.
        probability: P(first > second) [P].
        margin: Margins in log-odds [P].
        weight: Weights in the loss [P].
        labels: Next-token labels of the responses [T, 3]: predicting token, predicted token (both as indices into the R * L tokens),
            sequence. The last token before a branch point predicts the first token of each branch.
        sizes: Numbers of sequences and pairs of each datum [data, 2], to split results by datum.
        padded: One sequence per row without sharing, so that a causal mask suffices.
        tokens: Number of tokens without padding, counted here since asking a GPU for it would wait for all that it has to do.
        states: Hidden states [R, L, H] of the tokens, if they are cached (`data.features`); the model then skips the backbone.
        annotator: Index of who judged each pair [P], -1: the population (`prefrep.annotators`); None: the model does not ask.
        surplus: Number of final tokens of each sequence that a policy would not sample [M]; None: the model is no policy.
        reference: log pi_0 of each sequence [M] (`data.offline`); None: the loss needs none.
        mismatched: Sequence of each datum that is a response to another prompt [data]; None: there is none.
    """

    ids: Tensor
    positions: Tensor
    until: Tensor
    end: Tensor
    prompt_end: Tensor
    pairs: Tensor
    probability: Tensor
    margin: Tensor
    weight: Tensor
    labels: Tensor
    sizes: Tensor
    padded: bool
    tokens: int
    states: Tensor | None = None
    annotator: Tensor | None = None
    surplus: Tensor | None = None
    reference: Tensor | None = None
    mismatched: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sizes)

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


def alike(data: Sequence[Datum], row_tokens: int = ROW_TOKENS, most: int | None = None) -> list[list[int]]:
    """Group data that begin alike, each group to be read as one trie.

    What a record is read with decides on the last bits of its states, so this is for batches that a repeated or resumed run makes again.

    Args:
        data: The records.
        row_tokens: Tokens that a group may always have; larger ones have `WIDE` times what all of their data share.
        most: Most tokens of a group; None: no limit.

    Returns:
        Indices of the data of each group, in the order of their first data; data that share with nobody are alone.
    """
    firsts = [datum.trees[0].sequences[0] if datum.trees else np.zeros(0, np.int32) for datum in data]
    groups: list[list[int]] = []
    size = 0
    for i in sorted(range(len(data)), key=lambda i: (firsts[i].tobytes(), i)):  # neighbours share most
        if groups and (shared := common(firsts[groups[-1][0]], firsts[i])) >= ALIKE:
            size = size or data[groups[-1][0]].size
            grown = size + data[i].size - common(firsts[groups[-1][-1]], firsts[i])
            if grown <= max(row_tokens, WIDE * shared) and (most is None or grown <= most):
                groups[-1].append(i)
                size = grown
                continue
        groups.append([i])
        size = 0
    return sorted((sorted(group) for group in groups), key=lambda group: group[0])


def collate(
    data: Sequence[Datum],
    pad_id: int,
    layout: Layout = "trees",
    row_tokens: int = ROW_TOKENS,
    share: bool = False,
    groups: Sequence[Sequence[int]] | None = None,
) -> TreeBatch:
    """Collate encoded records into a batch.

    Args:
        data: The records.
        pad_id: Token id of padding; any id will do, since padding is masked.
        layout: `trees`: prefix sharing, several trees per row. `padded`: one complete sequence per row.
        row_tokens: Capacity of a row of trees, see `Backbone.row_capacity`; a larger record or group widens the rows.
        share: Whether records that begin alike share that, see `alike`.
        groups: Groups of a caller that has asked `alike` itself; every datum occurs once.

    Returns:
        The batch, with sequences and pairs in the order of `data`, whatever the layout.
    """
    trees = [tree for datum in data for tree in datum.trees]
    if layout == "padded":
        tries = [Trie([ids]) for datum in data for ids in datum.sequences]
        trie_of = list(range(len(tries)))
    else:
        together = groups or (alike(data, row_tokens) if share else [[i] for i in range(len(data))])
        tries = [Trie(ids for i in group for ids in data[i].sequences) for group in together]
        place_of = {i: place for place, group in enumerate(together) for i in group}
        trie_of = [place_of[i] for i, datum in enumerate(data) for _ in datum.sequences]
    laid = [trie.laid() for trie in tries]
    sizes = [trie.size for trie in tries]
    rows = [[i] for i in range(len(tries))] if layout == "padded" else pack(sizes, max(row_tokens, *sizes))
    length = max(sum(sizes[i] for i in row) for row in rows)
    ids_RL = np.full((len(rows), length), pad_id, dtype=np.int64)
    positions_RL, until_RL = np.zeros((len(rows), length), dtype=np.int64), np.zeros((len(rows), length), dtype=np.int64)
    origin = np.zeros(len(tries), np.int64)
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            span = slice(at, at + sizes[i])
            ids_RL[r, span], positions_RL[r, span], until_RL[r, span] = laid[i].ids, laid[i].positions, laid[i].until + at
            origin[i] = r * length + at
            at += sizes[i]

    sequences = [(tree, ids) for tree in trees for ids in tree.sequences]
    paths = [origin[i] + tries[i].path(ids) for i, (_, ids) in zip(trie_of, sequences, strict=True)]
    offsets = np.cumsum([0, *(len(datum.sequences) for datum in data)])
    pairs = [
        (a + offset, NOBODY if b == NOBODY else b + offset) for datum, offset in zip(data, offsets, strict=False) for a, b in datum.pairs
    ]
    return TreeBatch(
        ids=torch.from_numpy(ids_RL),
        positions=torch.from_numpy(positions_RL),
        until=torch.from_numpy(until_RL),
        end=torch.tensor([int(path[-1]) for path in paths]),
        prompt_end=torch.tensor([int(path[max(tree.prompt - 1, 0)]) for path, (tree, _) in zip(paths, sequences, strict=True)]),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        probability=torch.tensor([p for datum in data for p in datum.probability], dtype=torch.float32),
        margin=torch.tensor([m for datum in data for m in datum.margin], dtype=torch.float32),
        weight=torch.tensor([w for datum in data for w in datum.weight], dtype=torch.float32),
        labels=torch.from_numpy(_labels(trees, paths)),
        sizes=torch.tensor([[len(d.sequences), len(d.pairs)] for d in data]),
        padded=layout == "padded",
        tokens=sum(sizes),
    )


def _labels(trees: Sequence[Tree], paths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the next-token labels [T, 3] of every response, along the path of its sequence."""
    found: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    first = [max(tree.prompt, 1) for tree in trees for _ in tree.sequences]
    for rank, (path, at) in enumerate(zip(paths, first, strict=True)):
        target = path[at:]
        found.append(np.stack([path[at - 1 : -1], target, np.full_like(target, rank)], axis=1))
    return np.concatenate(found)
