"""Dense attention masks of packed token trees.

A row holds one or more trees, laid out depth first, so that the tokens below a token follow it without a gap. `until` is where they end:
token t is at or below token u iff u <= t < until[u].

Shape letters: R rows, L tokens in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tree_mask(until: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Return the attention mask of packed trees: token t sees token u iff u is on the path of t.

    Args:
        until: Place in the row just past the last token that sees each token [R, L]; 0 for padding.
        positions: Position of each token on its path [R, L]; used with a window only.
        window: Sliding window: t sees u only if the position of u is less than `window` before that of t. None: no window.

    Returns:
        Boolean mask [R, 1, L, L], True where the query (second to last axis) sees the key. Padding sees itself alone, since a softmax
        over no keys is NaN.

    Example:
        A prefix of one token and two branches of one token each: the branches do not see each other.

        >>> tree_mask(torch.tensor([[3, 2, 3]]), torch.tensor([[0, 1, 1]]))[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    index = torch.arange(until.shape[1], device=until.device)
    mask = (index[:, None] >= index) & (index[:, None] < until[:, None, :])
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None, :] < window
    return (mask | torch.eye(until.shape[1], dtype=torch.bool, device=until.device))[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a boolean mask as biases of attention logits: 0 where True, the lowest number of `dtype` elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
