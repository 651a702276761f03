"""Packed token trees as attention blocks: consecutive queries, and the keys on their path.

Under a dense mask, all tokens of a row attend to all others, and most of the result is masked. Here every run of tokens without a branch is
cut into blocks of consecutive queries; the keys of a block are those that its last query sees, its path up to there. Blocks of similar size
are padded to one another and become one batched matrix product.

Shape letters: T tokens, B batches of blocks; in a batch N blocks of Q queries and U keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Spans = tuple[tuple[int, int], ...]

QUERIES = 64  # most queries in a block; a causal block computes half of a square of this width in vain
ALIGNED = {"cuda": 8}  # by device: numbers of keys are multiples of it, since bf16 products are slow on rows that begin elsewhere
BATCH = 2**12  # overhead of a further batch, in query-key pairs


class Blocks(NamedTuple):
    """Attention blocks over T tokens, batch after batch.

    Args:
        shapes: (N, Q, U) of each batch [B, 3], on the CPU.
        queries: Token of each query [sum N Q]; -1: padding.
        keys: Token of each key [sum N U]; -1: padding.
        seen: Whether a query sees a key [sum N Q U]. A padding query sees the first key of its block.
    """

    shapes: Tensor
    queries: Tensor
    keys: Tensor
    seen: Tensor


def blocks(until: Tensor) -> Blocks:
    """Cut trees into blocks.

    Args:
        until: Place just past the last token that sees each token [T], at least one token; see `functional.trees`.

    Returns:
        Blocks in which every token is one query, on the CPU.
    """
    until_T = until.cpu().numpy()
    after = np.arange(1, len(until_T))
    begins = np.append(0, after[(until_T[1:] != until_T[:-1]) | (until_T[:-1] <= after)])
    ends = np.append(begins[1:], len(until_T))
    found: list[tuple[Spans, int, int]] = []  # spans of the tokens above, of which the last holds the queries; first and end of those
    above: list[tuple[int, int]] = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        while above and until_T[above[-1][0]] <= begin:
            above.pop()
        found += [((*above, (begin, last)), first, last) for first in range(begin, end, QUERIES) for last in (min(first + QUERIES, end),)]
        above.append((begin, end))
    sizes = np.array([(last - first, sum(stop - start for start, stop in spans)) for spans, first, last in found])
    shapes, queries, keys, seen = [], [], [], []
    for batch in _alike(sizes):
        most = sizes[batch].max(0)
        most[1] += -most[1] % ALIGNED.get(until.device.type, 1)
        q_NQ, k_NU = (np.full((len(batch), n), -1, np.int64) for n in most)
        for n, (spans, first, last) in enumerate(found[i] for i in batch):
            q_NQ[n, : last - first] = np.arange(first, last)
            path = np.concatenate([np.arange(*span) for span in spans])
            k_NU[n, : len(path)] = path
        sees = (k_NU[:, None] >= 0) & (k_NU[:, None] <= q_NQ[:, :, None])  # tokens are in the order of their path
        sees[:, :, 0] |= q_NQ < 0
        shapes.append((len(batch), *most.tolist()))
        queries.append(q_NQ.ravel())
        keys.append(k_NU.ravel())
        seen.append(sees.ravel())
    return Blocks(torch.tensor(shapes), *(torch.from_numpy(np.concatenate(parts)) for parts in (queries, keys, seen)))


def _alike(sizes: Ints) -> list[Ints]:
    """Group blocks [(queries, keys)] at the least cost: query-key pairs after padding, plus `BATCH` per group.

    Groups are runs in the order of the number of keys; dynamic programming finds the best.
    """
    order = np.lexsort((sizes[:, 0], sizes[:, 1]))
    q, u = sizes[order].T
    least, cut = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        widest = np.maximum.accumulate(q[:end][::-1])[::-1]  # most queries in a group that starts at each index
        costs = least[:end] + np.arange(end, 0, -1) * widest * u[end - 1] + BATCH
        cut[end] = costs.argmin()
        least[end] = costs[cut[end]]
    groups, end = [], len(order)
    while end:
        groups.append(order[cut[end] : end])
        end = int(cut[end])
    return groups
