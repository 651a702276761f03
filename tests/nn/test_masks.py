"""Block masks of FlexAttention, made from bounds, are those that looking at every pair gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from prefrep.data.trie import Trie
from prefrep.functional.trees import tree_mask
from prefrep.nn.masks import TILE, flex_masks


def _trie(seed: int, sequences: int, longest: int) -> tuple[Tensor, Tensor]:
    """`until` and positions of a random trie, laid out depth first."""
    draw = np.random.default_rng(seed)
    ids = [draw.integers(0, 2, 6).tolist() + draw.integers(0, 9, draw.integers(1, longest)).tolist() for _ in range(sequences)]
    trie = Trie([np.array(each, np.int32) for each in ids])
    laid = trie.laid()
    return torch.as_tensor(laid.until)[None], torch.as_tensor(laid.positions)[None]


def _dense(mask: BlockMask, count: int) -> Tensor:
    """What a kernel makes of a block mask: tiles that are full, and tiles in which the function decides."""
    seen = torch.zeros(count, count, dtype=torch.bool)
    at = torch.arange(count)
    pairs = mask.mask_mod(torch.tensor(0), torch.tensor(0), at[:, None], at[None])
    for numbers, indices, full in ((mask.kv_num_blocks, mask.kv_indices, False), (mask.full_kv_num_blocks, mask.full_kv_indices, True)):
        assert numbers is not None and indices is not None
        for row, number in enumerate(numbers[0, 0].tolist()):
            for column in indices[0, 0, row, :number].tolist():
                tile = slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)
                assert not seen[tile].any(), "each tile once"
                seen[tile] = True if full else pairs[tile]
    return seen


@pytest.mark.parametrize(("sequences", "longest"), [(1, 5), (1, 700), (3, 400), (40, 60), (2, 129)])
def test_block_masks(sequences: int, longest: int) -> None:
    """Without a window tiles are those of `create_block_mask`, in its order; with one, none that has a visible pair is missing."""
    for seed in range(4):
        until, positions = _trie(seed, sequences, longest)
        count = until.shape[1]
        config: Any = SimpleNamespace(sliding_window=50, layer_types=["full_attention", "sliding_attention"])
        masks = cast("dict[str, BlockMask]", flex_masks(config, until, positions))
        for kind, window in (("full_attention", None), ("sliding_attention", 50)):
            assert torch.equal(_dense(masks[kind], count), tree_mask(until, positions, window)[0, 0])
        whole = masks["full_attention"]
        expected = create_block_mask(whole.mask_mod, None, None, count, count, device="cpu")
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices", "full_q_indices"):
            assert torch.equal(getattr(whole, name), getattr(expected, name)), name
        near, all_pairs = (
            masks["sliding_attention"],
            create_block_mask(masks["sliding_attention"].mask_mod, None, None, count, count, "cpu"),
        )
        assert torch.equal(near.full_kv_num_blocks, all_pairs.full_kv_num_blocks), "what is whole is known exactly"
