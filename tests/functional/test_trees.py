"""Tree masks against the sentence that defines them, in loops."""

from __future__ import annotations

import pytest
import torch
from conftest import random_rows

from prefrep.functional.trees import additive, tree_mask


def path(parent: torch.Tensor, token: int) -> list[int]:
    """The token and all above it."""
    return [token] if parent[token] < 0 else [*path(parent, int(parent[token])), token]


@pytest.mark.parametrize("window", [None, 1, 2, 3, 100])
def test_mask_says_what_its_docstring_says(window: int | None) -> None:
    parent, until, positions = random_rows(torch.Generator().manual_seed(0), rows=5, length=23)
    assert (parent == -2).any() and (parent == -1).sum() > 5
    mask = tree_mask(until, positions, window)
    assert mask.shape == (5, 1, 23, 23) and mask.dtype == torch.bool
    for row in range(5):
        for t in range(23):
            for u in range(23):
                near = window is None or bool(positions[row, t] - positions[row, u] < window)
                sees = u in path(parent[row], t) and near
                assert bool(mask[row, 0, t, u]) == sees, (row, t, u)


def test_a_branch_sees_positions_zero_to_its_own() -> None:
    """What a token sees are the positions that it would see alone, each once."""
    parent, until, positions = random_rows(torch.Generator().manual_seed(1), rows=4, length=31)
    mask = tree_mask(until, positions)[:, 0]
    for row in range(4):
        for t in range(31):
            if parent[row, t] > -2:
                assert sorted(positions[row, mask[row, t]].tolist()) == list(range(int(positions[row, t]) + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_additive_masks_leave_a_softmax_the_seen_keys(dtype: torch.dtype) -> None:
    _, until, positions = random_rows(torch.Generator().manual_seed(2), rows=2, length=17)
    mask = tree_mask(until, positions)
    numbers = additive(mask, dtype)
    assert numbers.dtype == dtype
    shares = torch.softmax(numbers.float(), dim=-1)
    torch.testing.assert_close(shares, mask / mask.sum(-1, keepdim=True))
