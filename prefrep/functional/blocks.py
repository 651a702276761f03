"""Packed token trees as attention blocks: consecutive queries, and the keys on their path.

Under a dense mask, all tokens of a row attend to all others, and most of the result is masked. Here every shared prefix and branch is cut
into blocks of consecutive queries; the keys of a block are those that its last query sees, the prefix and the branch up to there. Blocks of
similar size are padded to one another and become one batched matrix product.

Shape letters: T tokens, B batches of blocks; in a batch N blocks of Q queries and U keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

QUERIES = 64  # most queries in a block; a causal block computes half of a square of this width in vain
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


def blocks(tree: Tensor, branch: Tensor) -> Blocks:
    """Cut trees into blocks.

    Args:
        tree: Tree of each token [T], at least one token; the tokens of a tree are contiguous and begin with its shared prefix.
        branch: Branch of each token [T]; 0 for the shared prefix. The tokens of a branch are contiguous.

    Returns:
        Blocks in which every token is one query, on the CPU.
    """
    tree_T, branch_T = tree.cpu().numpy(), branch.cpu().numpy()
    begins = np.flatnonzero(np.diff(tree_T, prepend=-1) | np.diff(branch_T, prepend=-1))
    ends = np.append(begins[1:], len(tree_T))
    found: list[tuple[int, int, int, int, int]] = []  # start and end of the prefix, start of the branch, start and end of the queries
    prefix, owner = (0, 0), -1
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if tree_T[begin] != owner:
            prefix, owner = (begin, begin), int(tree_T[begin])
        before = prefix if branch_T[begin] else (begin, begin)
        found += [(*before, begin, first, min(first + QUERIES, end)) for first in range(begin, end, QUERIES)]
        if not branch_T[begin]:
            prefix = (begin, end)
    sizes = np.array([(last - first, last - begin + stop - start) for start, stop, begin, first, last in found])
    shapes, queries, keys, seen = [], [], [], []
    for batch in _alike(sizes):
        most = sizes[batch].max(0)
        q_NQ, k_NU = (np.full((len(batch), n), -1, np.int64) for n in most)
        for n, (start, stop, begin, first, last) in enumerate(found[i] for i in batch):
            q_NQ[n, : last - first] = np.arange(first, last)
            k_NU[n, : stop - start] = np.arange(start, stop)
            k_NU[n, stop - start : stop - start + last - begin] = np.arange(begin, last)
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
