"""Reading encoded records through a cache of hidden states (`data.features`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prefrep.data.features import Features, key
from prefrep.data.trees import ROW_TOKENS, Datum, Layout, Tree, TreeBatch, collate
from prefrep.data.trie import Ids

log = logging.getLogger(__name__)

SEGMENT_BYTES, SEGMENT_SECONDS = 64 << 20, 60.0  # limits of a segment, which is what a killed process loses


def remember(
    data: Sequence[Datum],
    features: Features,
    read: Callable[[TreeBatch], Tensor],
    pad_id: int,
    layout: Layout = "trees",
    row_tokens: int = ROW_TOKENS,
    batch_tokens: int = 4096,
    what: str = "texts",
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], object] = lambda: None,
) -> list[Datum]:
    """Read all sequences that the cache does not have.

    Args:
        data: Encoded records.
        features: The cache.
        read: Forward pass; returns the hidden states [R * L, H] of a batch.
        pad_id: See `collate`.
        layout: See `collate`.
        row_tokens: See `collate`.
        batch_tokens: Distinct tokens per forward pass.
        what: Label of the progress bar.
        share: (rank, world size); all processes have the same data and read a share each.
        wait: Barrier over all processes.

    Returns:
        The records for `look_up`: the "tokens" of each sequence are the rows of its prompt's last state and of its own last state.
    """
    places = [[(key(prompt), key(ids)) for ids, prompt in _reads(datum)] for datum in data]
    missing = _missing(data, places, features, layout, batch_tokens)
    log.info(
        "%s: %d hidden states in %s, %d sequences to read",
        what, len({k for found in places for keys in found for k in keys}), features.folder, sum(len(t.sequences) for t in missing),
    )  # fmt: skip
    wait()  # all processes must determine what is missing before the first segment appears
    process, processes = share
    if own := missing[process::processes]:
        _read(own, features, read, pad_id, layout, row_tokens, batch_tokens, what)
    wait()
    features.refresh()
    return [_rows(datum, found, features) for datum, found in zip(data, places, strict=True)]


def look_up(data: Sequence[Datum], features: Features) -> TreeBatch:
    """Collate what `remember` returned into a batch with hidden states."""
    batch = collate(data, 0, "padded")
    return replace(batch, states=features[batch.ids])


def _reads(datum: Datum) -> Iterator[tuple[Ids, Ids]]:
    """Yield each sequence, and its ids up to the prompt token that `collate` names in `prompt_end`."""
    for tree in datum.trees:
        for ids in tree.sequences:
            yield ids, ids[: max(tree.prompt, 1)]


def _missing(
    data: Sequence[Datum], places: Sequence[Sequence[tuple[bytes, bytes]]], features: Features, layout: Layout, batch_tokens: int
) -> list[Tree]:
    """Return the sequences that the cache lacks as trees, each once, the responses to a prompt together."""
    prompts: dict[bytes, tuple[int, dict[bytes, Ids]]] = {}
    for datum, keys in zip(data, places, strict=True):
        for (ids, prompt), (prompt_key, end_key) in zip(_reads(datum), keys, strict=True):
            if prompt_key not in features or end_key not in features:
                prompts.setdefault(prompt_key, (len(prompt), {}))[1][end_key] = ids
    trees = []
    for length, sequences in prompts.values():
        group: list[Ids] = []
        for ids in sequences.values():
            if group and length + sum(len(other) - length for other in (*group, ids)) > batch_tokens:
                trees.append(Tree(tuple(group), length))
                group = []
            group.append(ids)
        trees.append(Tree(tuple(group), length))
    return trees


@torch.no_grad()
def _read(
    trees: Iterable[Tree],
    features: Features,
    read: Callable[[TreeBatch], Tensor],
    pad_id: int,
    layout: Layout,
    row_tokens: int,
    batch_tokens: int,
    what: str,
) -> None:
    """Read trees, largest first, and write a segment at regular intervals."""
    left = sorted(((tree.size, i, tree) for i, tree in enumerate(trees)), key=lambda item: item[:2])
    found: dict[bytes, Tensor] = {}
    since = time.monotonic()
    with tqdm(total=sum(size for size, _, _ in left), desc=f"reading {what}", unit=" tokens", disable=None) as bar:
        while left:
            tokens, _, tree = left.pop()
            part = [tree]
            while left and tokens + left[-1][0] <= batch_tokens:
                size, _, tree = left.pop()
                part.append(tree)
                tokens += size
            batch = collate([Datum((tree,)) for tree in part], pad_id, layout, row_tokens)
            hidden = read(batch)
            ends, prompts = hidden[batch.end].cpu(), hidden[batch.prompt_end].cpu()
            places = [place for tree in part for place in _reads(Datum((tree,)))]
            for (ids, prompt), end, prompt_end in zip(places, ends, prompts, strict=True):
                found[key(ids)], found[key(prompt)] = end, prompt_end
            bar.update(tokens)
            states = next(iter(found.values()))
            full = len(found) * states.nbytes > SEGMENT_BYTES or time.monotonic() - since > SEGMENT_SECONDS
            if full or not left:
                features.add(list(found), torch.stack(list(found.values())))
                found, since = {}, time.monotonic()


def _rows(datum: Datum, places: Sequence[tuple[bytes, bytes]], features: Features) -> Datum:
    """Return the record with sequences of rows in place of token ids."""
    rows = iter([np.asarray([features.row(prompt), features.row(end)], np.int32) for prompt, end in places])
    return replace(datum, trees=tuple(Tree(tuple(next(rows) for _ in tree.sequences), 1) for tree in datum.trees))
