"""Dense attention masks of packed token trees.

A row holds one or more trees; a tree is a shared prefix followed by branches. `tree` is the tree of a token (-1: padding) and `branch` its
branch (0: the shared prefix, 1..: a branch).

Shape letters: R rows, L tokens in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tree_mask(tree: Tensor, branch: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Return the attention mask of packed trees: token t sees token u iff u is not after t and is on the path of t.

    Args:
        tree: Tree of each token [R, L]; -1 for padding.
        branch: Branch of each token [R, L]; 0 for a shared prefix.
        positions: Position of each token on its path [R, L]; used with a window only.
        window: Sliding window: t sees u only if the position of u is less than `window` before that of t. None: no window.

    Returns:
        Boolean mask [R, 1, L, L], True where the query (second to last axis) sees the key. Padding sees itself alone, since a softmax
        over no keys is NaN.

    Example:
        A prefix of one token and two branches of one token each: the branches do not see each other.

        >>> tree_mask(torch.tensor([[0, 0, 0]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1]]))[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
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
    """Return a boolean mask as biases of attention logits: 0 where True, the lowest number of `dtype` elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
