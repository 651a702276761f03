"""Packed token trees as tensors: who sees whom.

A row holds one or more trees; a tree is a shared prefix and the branches that follow it. `tree` says which tree a token belongs to
(-1: padding) and `branch` which branch of it (0: the shared prefix, 1..: a branch).

Shape letters: R rows, L tokens in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tree_mask(tree: Tensor, branch: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Attention mask of packed trees: token t sees token u iff u is not after t and lies on t's own path.

    Args:
        tree: Tree of each token [R, L]; -1 for padding.
        branch: Branch of each token [R, L]; 0 for a shared prefix.
        positions: Position of each token on its own path [R, L]; only read for a window.
        window: Sliding window: t sees u only when its position is less than `window` before t's own. None: all.

    Returns:
        Boolean mask [R, 1, L, L], True where the query (second to last axis) sees the key. Padding sees itself alone, since a row
        of a softmax without any key is not a number.
    """
    length = tree.shape[1]
    index = torch.arange(length, device=tree.device)
    same_tree = tree[:, :, None] == tree[:, None, :]
    on_path = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    mask = same_tree & on_path & (index[:, None] >= index[None, :]) & (tree >= 0)[:, :, None]
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None, :] < window
    return (mask | torch.eye(length, dtype=torch.bool, device=tree.device))[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add to attention logits: 0 where seen, the lowest number of `dtype` elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
