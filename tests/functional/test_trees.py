"""Tree masks against the sentence that defines them, in loops."""

from __future__ import annotations

import pytest
import torch
from conftest import random_rows

from prefrep.functional.trees import additive, tree_mask


@pytest.mark.parametrize("window", [None, 1, 2, 3, 100])
def test_mask_says_what_its_docstring_says(window: int | None) -> None:
    tree, branch, positions = random_rows(torch.Generator().manual_seed(0), rows=5, length=23)
    assert (tree == -1).any() and (branch == 3).any()
    mask = tree_mask(tree, branch, positions, window)
    assert mask.shape == (5, 1, 23, 23) and mask.dtype == torch.bool
    for row in range(5):
        for t in range(23):
            for u in range(23):
                if tree[row, t] < 0:
                    sees = t == u
                else:
                    on_path = tree[row, u] == tree[row, t] and branch[row, u] in (0, branch[row, t])
                    near = window is None or positions[row, t] - positions[row, u] < window
                    sees = u <= t and bool(on_path) and bool(near)
                assert bool(mask[row, 0, t, u]) == sees, (row, t, u)


def test_a_branch_sees_positions_zero_to_its_own() -> None:
    """What a token sees are the positions that it would see alone, each once."""
    tree, branch, positions = random_rows(torch.Generator().manual_seed(1), rows=4, length=31)
    mask = tree_mask(tree, branch, positions)[:, 0]
    for row in range(4):
        for t in range(31):
            if tree[row, t] >= 0:
                assert sorted(positions[row, mask[row, t]].tolist()) == list(range(int(positions[row, t]) + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_additive_masks_leave_a_softmax_the_seen_keys(dtype: torch.dtype) -> None:
    tree, branch, positions = random_rows(torch.Generator().manual_seed(2), rows=2, length=17)
    mask = tree_mask(tree, branch, positions)
    numbers = additive(mask, dtype)
    assert numbers.dtype == dtype
    shares = torch.softmax(numbers.float(), dim=-1)
    torch.testing.assert_close(shares, mask / mask.sum(-1, keepdim=True))
