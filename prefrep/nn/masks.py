"""Attention masks of packed token trees, in the forms that the kernels of `transformers` take.

* `sdpa` and `eager` take dense masks over whole rows (`dense_masks`). They also serve models that do not use `transformers`' attention
  interface.
* `flex_attention` (CUDA) takes a block mask over one row of T tokens (`flex_masks`): blocks without a visible pair cost nothing.
* `trees`, the kernel of `nn.attention`, takes biases and indices for the blocks of `functional.blocks` (`tree_biases`): almost nothing off
  the path of a token is computed, and a sliding window is a mask within blocks.

Shape letters: R rows, L tokens in a row, T tokens that are not padding, H heads, G key-value heads; batches of N blocks with Q queries and
U keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PretrainedConfig

from prefrep.functional.blocks import Blocks, blocks
from prefrep.functional.trees import additive, tree_mask

Mask = TypeVar("Mask", Tensor, BlockMask)
PerLayerType: TypeAlias = Mask | dict[str, Mask]
TILE = 128  # queries, and keys, of a block of FlexAttention


class BlockIndex(NamedTuple):
    """Indices that gather the heads of queries and keys into blocks, for H query heads and G key-value heads.

    Args:
        shapes: (N, Q, U) of each batch of blocks, on the CPU [B, 3].
        queries: Row t * H + h of each query in the order batch, block, head, query [sum N H Q]; any row for padding.
        padding: Indices of padding in `queries`.
        keys: Row t * G + g of each key in the order batch, block, head, key [sum N G U]; any row for padding.
        out: Index of each row in `queries` [T * H].
        uses: Indices of each row in `keys`, grouped by row [sum N G U without padding].
        first: Where the group of each row begins in `uses` [T * G].
    """

    shapes: Tensor
    queries: Tensor
    padding: Tensor
    keys: Tensor
    out: Tensor
    uses: Tensor
    first: Tensor


def dense_masks(config: PretrainedConfig, until: Tensor, positions: Tensor, *, dtype: torch.dtype | None = None) -> PerLayerType[Tensor]:
    """Return dense attention masks of packed trees for every layer type of a backbone.

    Args:
        config: Text configuration of the backbone: `layer_types` and `sliding_window` decide.
        until: Place in the row just past the last token that sees each token [R, L]; 0: padding.
        positions: Positions [R, L].
        dtype: None for kernels with boolean masks; the dtype of the logits for kernels that add the mask (eager).

    Returns:
        One mask [R, 1, L, L], or one per layer type if layers differ (Qwen 2/3, Gemma 2/3).

    Raises:
        ValueError: Layers attend within chunks.
    """

    def build(window: int | None) -> Tensor:
        mask = tree_mask(until, positions, window)
        return mask if dtype is None else additive(mask, dtype)

    return per_layer_type(config, build)


def flex_masks(config: PretrainedConfig, until: Tensor, positions: Tensor) -> PerLayerType[BlockMask]:
    """Return the masks of `dense_masks` for FlexAttention, over one row of T tokens without padding.

    Args:
        config: Text configuration of the backbone.
        until: Place just past the last token that sees each token [1, T].
        positions: Positions [1, T].

    Raises:
        ValueError: Layers attend within chunks.
    """
    until, positions = until[0], positions[0]

    def build(window: int | None) -> BlockMask:
        def sees(batch: Tensor, head: Tensor, t: Tensor, u: Tensor) -> Tensor:
            seen = (u <= t) & (t < until[u])
            return seen if window is None else seen & (positions[t] - positions[u] < window)

        some, every = (_ordered(found) for found in _tiles(until, positions, window))
        return BlockMask.from_kv_blocks(*some, *every, BLOCK_SIZE=TILE, mask_mod=sees, seq_lengths=(len(until), len(until)))

    return per_layer_type(config, build)


def _tiles(until: Tensor, positions: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """Return which tiles of queries and keys have some visible pairs, and which have all, [T / 128, T / 128] each.

    `create_block_mask` looks at T x T pairs. Here a bound per tile says it: the first query of a tile sees a key of an earlier tile if
    the largest `until` there lies behind it, and all queries see all keys if the smallest lies behind the last query. With a window,
    some tiles without a visible pair are computed in vain.
    """
    count, device = len(until), until.device
    tiles = -(-count // TILE)

    def bounds(x: Tensor) -> tuple[Tensor, Tensor]:  # smallest and largest of each tile
        last = x[-1:].expand(tiles * TILE - count)
        return torch.cat([x, last]).view(tiles, TILE).aminmax(dim=1)

    (least, most), begin = bounds(until), torch.arange(tiles, device=device) * TILE
    end = begin + TILE
    earlier = begin[:, None] > begin
    some = (earlier & (most > begin[:, None])) | (begin[:, None] == begin)
    every = earlier & (least >= end[:, None]) & (end <= count)[:, None]  # a tile that is not whole has no pair behind the last token
    if window is not None:
        low, high = bounds(positions)
        some &= low[:, None] - high < window
        every &= high[:, None] - low < window
    return some & ~every, every


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of chosen tiles in each row, and all tiles with the chosen ones first, as FlexAttention wants them."""
    chosen = tiles.int()[None, None]
    return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()


def tree_biases(config: PretrainedConfig, until: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[PerLayerType[Tensor], BlockIndex]:
    """Return what the kernel `trees` reads beside queries, keys and values; all layers share it.

    Args:
        config: Text configuration of the backbone.
        until: Place just past the last token that sees each token [T].
        positions: Positions [T].
        dtype: Dtype of the logits.

    Returns:
        Biases to add to the logits of all blocks, [1, 1, 1, sum N Q U], and the indices of heads in blocks.

    Raises:
        ValueError: Layers attend within chunks.
    """
    found, place, device = blocks(until), positions.cpu(), positions.device

    def build(window: int | None) -> Tensor:
        seen = found.seen
        if window is not None:
            near = [(place[q][:, :, None] - place[k][:, None, :] < window) | (q < 0)[:, :, None] for q, k in _batches(found)]
            seen = seen & torch.cat([each.flatten() for each in near])
        # transformers passes masks of four axes on unchanged.
        return additive(seen.to(device), dtype)[None, None, None]

    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    queries = torch.cat([_rows(q, heads) for q, _ in _batches(found)])
    keys = torch.cat([_rows(k, groups) for _, k in _batches(found)])
    real_queries, real_keys = (queries >= 0).nonzero()[:, 0], (keys >= 0).nonzero()[:, 0]
    out = torch.empty(len(real_queries), dtype=torch.long).index_copy_(0, queries[real_queries], real_queries)
    uses = real_keys[keys[real_keys].argsort(stable=True)]
    counts = torch.bincount(keys[real_keys], minlength=len(until) * groups)
    index = (queries.clamp_min(0), (queries < 0).nonzero()[:, 0], keys.clamp_min(0), out, uses, counts.cumsum(0) - counts)
    return per_layer_type(config, build), BlockIndex(found.shapes, *(each.to(device) for each in index))


def per_layer_type(config: PretrainedConfig, build: Callable[[int | None], Mask]) -> PerLayerType[Mask]:
    """Return `build(window)`, once or for each layer type by name."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:  # Mistral: a window in the configuration holds for every layer
        return build(window)
    if "chunked_attention" in types:  # Llama 4
        raise ValueError("attention within chunks has no tree mask")
    if "sliding_attention" in types:
        return {"full_attention": build(None), "sliding_attention": build(window)}
    return build(None)


def _batches(found: Blocks) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (queries [N, Q], keys [N, U]) of each batch of blocks."""
    at_q = at_k = 0
    for n, q, u in found.shapes.tolist():
        yield found.queries[at_q : at_q + n * q].view(n, q), found.keys[at_k : at_k + n * u].view(n, u)
        at_q, at_k = at_q + n * q, at_k + n * u


def _rows(tokens: Tensor, heads: int) -> Tensor:
    """Return rows [N * H * Q] of tokens [N, Q], -1 for padding."""
    rows = tokens[:, None] * heads + torch.arange(heads)[:, None]
    return rows.masked_fill(tokens[:, None] < 0, -1).flatten()
