"""Attention over packed token trees, in the forms that the `transformers` library takes.

Three kernels know trees. `trees` (ours, registered with `transformers` under that name): all layers work on the T tokens that are there,
without padding, and attention goes by the blocks of `functional.blocks`, so that hardly anything off a token's path is computed (a sliding
window is a mask within blocks).
`flex_attention` (CUDA): one row of T tokens under a block mask, so that blocks without a pair that may be seen cost nothing. `sdpa` and
`eager` take dense masks of whole rows, and serve models that are not built on `transformers`' attention interface.

Shape letters: R rows, L tokens in a row, T tokens that are not padding, H heads, G key-value heads, d width of a head; batches of N blocks
with Q queries and U keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefrep.functional.blocks import Blocks, blocks
from prefrep.functional.trees import additive, tree_mask

# A layer keeps this many attention weights at most for its backward pass (128 MiB in bf16); if it has more, they are computed again there.
KEPT = 2**26

Mask = TypeVar("Mask", Tensor, BlockMask)
PerKind: TypeAlias = Mask | dict[str, Mask]


class Places(NamedTuple):
    """Where the heads of queries and keys stand in the blocks: for H query heads and G key-value heads.

    Args:
        shapes: (N, Q, U) of each batch of blocks, on the CPU [B, 3].
        queries: Row t * H + h of each query in the order batch, block, head, query [sum N H Q]; any row for padding.
        padding: Which of those are padding.
        keys: Row t * G + g of each key in the order batch, block, head, key [sum N G U]; any row for padding.
        out: Where each row is among `queries` [T * H].
        uses: Where each row is among `keys`, the places of one row together [sum N G U without padding].
        first: Where each row's places begin in `uses` [T * G].
    """

    shapes: Tensor
    queries: Tensor
    padding: Tensor
    keys: Tensor
    out: Tensor
    uses: Tensor
    first: Tensor


def masks(
    config: PretrainedConfig, tree: Tensor, branch: Tensor, positions: Tensor, *, numbers: torch.dtype | None = None
) -> PerKind[Tensor]:
    """Dense attention masks of packed trees for every kind of layer that a backbone has.

    Args:
        config: The backbone's configuration: `layer_types` and `sliding_window` decide.
        tree: Tree of each token [R, L]; -1: padding.
        branch: Branch of each token [R, L].
        positions: Positions [R, L].
        numbers: None for kernels that take booleans; the dtype of the logits for those that add the mask (eager).

    Returns:
        One mask [R, 1, L, L], or one per layer type where the layers differ (Qwen 2/3, Gemma 2/3).
    """

    def finish(window: int | None) -> Tensor:
        mask = tree_mask(tree, branch, positions, window)
        return mask if numbers is None else additive(mask, numbers)

    return _each_kind(config, finish)


def block_masks(config: PretrainedConfig, tree: Tensor, branch: Tensor, positions: Tensor) -> PerKind[BlockMask]:
    """The same masks for FlexAttention, over T tokens without padding in one row: arguments as for `masks`, each [1, T]."""
    tree, branch, positions = tree[0], branch[0], positions[0]

    def finish(window: int | None) -> BlockMask:
        def sees(batch: Tensor, head: Tensor, t: Tensor, u: Tensor) -> Tensor:
            seen = (u <= t) & (tree[t] == tree[u]) & ((branch[u] == 0) | (branch[t] == branch[u]))
            return seen if window is None else seen & (positions[t] - positions[u] < window)

        return create_block_mask(sees, None, None, len(tree), len(tree), device=str(tree.device))

    return _each_kind(config, finish)


def in_blocks(
    config: PretrainedConfig, tree: Tensor, branch: Tensor, positions: Tensor, numbers: torch.dtype
) -> tuple[PerKind[Tensor], Places]:
    """What the kernel `trees` reads beside queries, keys and values, for all layers at once.

    Args:
        config: The backbone's configuration.
        tree: Tree of each token [T].
        branch: Branch of each token [T].
        positions: Positions [T].
        numbers: The dtype of the logits.

    Returns:
        The masks as numbers to add to the logits of all blocks, [1, 1, 1, sum N Q U], and where each head stands in the blocks.
    """
    found, place, device = blocks(tree, branch), positions.cpu(), positions.device

    def finish(window: int | None) -> Tensor:
        seen = found.seen
        if window is not None:
            near = [(place[q][:, :, None] - place[k][:, None, :] < window) | (q < 0)[:, :, None] for q, k in _batches(found)]
            seen = seen & torch.cat([each.flatten() for each in near])
        # Four axes are what `transformers` hands through as it is.
        return additive(seen.to(device), numbers)[None, None, None]

    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    queries = torch.cat([_rows(q, heads) for q, _ in _batches(found)])
    keys = torch.cat([_rows(k, groups) for _, k in _batches(found)])
    asked, there = (queries >= 0).nonzero()[:, 0], (keys >= 0).nonzero()[:, 0]
    out = torch.empty(len(asked), dtype=torch.long).index_copy_(0, queries[asked], asked)
    uses = there[keys[there].argsort(stable=True)]
    counts = torch.bincount(keys[there], minlength=len(tree) * groups)
    where = (queries.clamp_min(0), (queries < 0).nonzero()[:, 0], keys.clamp_min(0), out, uses, counts.cumsum(0) - counts)
    return _each_kind(config, finish), Places(found.shapes, *(each.to(device) for each in where))


def _each_kind(config: PretrainedConfig, finish: Callable[[int | None], Mask]) -> PerKind[Mask]:
    """What `finish(window)` gives, for the one kind of layer there is or for each by name."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # Mistral: a window in the configuration is a window in every layer
        return finish(window)
    if "chunked_attention" in kinds:  # Llama 4
        raise ValueError("attention within chunks has no mask of trees here")
    if "sliding_attention" in kinds:
        return {"full_attention": finish(None), "sliding_attention": finish(window)}
    return finish(None)


def _batches(found: Blocks) -> Iterator[tuple[Tensor, Tensor]]:
    """(queries [N, Q], keys [N, U]) of each batch of blocks."""
    at_q = at_k = 0
    for n, q, u in found.shapes.tolist():
        yield found.queries[at_q : at_q + n * q].view(n, q), found.keys[at_k : at_k + n * u].view(n, u)
        at_q, at_k = at_q + n * q, at_k + n * u


def _rows(tokens: Tensor, heads: int) -> Tensor:
    """Tokens [N, Q] -> rows [N * H * Q], -1 for padding."""
    rows = tokens[:, None] * heads + torch.arange(heads)[:, None]
    return rows.masked_fill(tokens[:, None] < 0, -1).flatten()


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    places: Places | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of T tokens in blocks: the function that `transformers` calls in every layer.

    Without `places` (generation, padded sequences) it is `transformers`' own sdpa. There is no dropout: equal texts get equal scores.

    Args:
        module: The attention layer.
        query: [1, H, T, d].
        key: [1, G, T, d].
        value: [1, G, T, d].
        attention_mask: Of `in_blocks`, [1, 1, 1, sum N Q U].
        scaling: Factor of the logits; None: 1 / sqrt(d).
        softcap: Gemma 2's cap c of the logits: c tanh(logits / c).
        s_aux: Sink logits, which this kernel does not know.
        places: Which token stands where in the blocks.
        others: What else the layer says.

    Returns:
        [1, T, H, d], and no attention weights.

    Raises:
        ValueError: The layer has attention sinks, so another kernel must serve.
    """
    if s_aux is not None:
        raise ValueError("the kernel `trees` has no attention sinks")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if places is None:
        if softcap is None:
            others = {**others, "dropout": 0.0}
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
        return _capped(query, key, value, attention_mask, scaling, softcap), None
    assert attention_mask is not None
    dtype = value.dtype  # norms of queries and keys may have widened them under autocast
    keep = torch.is_grad_enabled() and softcap is None and attention_mask.numel() * query.shape[1] <= KEPT
    mixed, _ = _attend(query.to(dtype), key.to(dtype), value, attention_mask.flatten(), list(places), scaling, softcap or 0.0, keep)
    return mixed, None


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor:
    """Attention [1, T, H, d] with a soft cap under a dense boolean mask, which transformers' sdpa does not have."""
    if mask is None:  # causal, the queries being the last of the keys
        asked, there = query.shape[2], key.shape[2]
        mask = torch.ones(asked, there, dtype=torch.bool, device=query.device).tril(there - asked)
    each = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(each, 1) for x in (key, value))
    logits = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    # Not -inf: padding sees nothing, and must stay a number.
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2)


# ---- the kernel: opaque to the compiler, since the shapes of blocks change with every batch


class _Block(NamedTuple):
    """One batch of blocks: what it reads and where its results go. `weights` [N G, H/G Q, U]."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    q: slice
    k: slice
    w: slice


def _gathered(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, at: Places, scaling: float) -> Iterator[_Block]:
    heads, groups = query.shape[1], key.shape[1]
    q_all = _flat(query).index_select(0, at.queries).mul_(scaling)
    k_all, v_all = _flat(key).index_select(0, at.keys), _flat(value).index_select(0, at.keys)
    at_q = at_k = at_b = 0
    for n, q, u in at.shapes.tolist():
        q_span, k_span, b_span = slice(at_q, at_q + n * heads * q), slice(at_k, at_k + n * groups * u), slice(at_b, at_b + n * q * u)
        yield _Block(
            q_all[q_span].view(n * groups, -1, q_all.shape[1]),
            k_all[k_span].view(n * groups, u, -1),
            v_all[k_span].view(n * groups, u, -1),
            bias[b_span].view(n, 1, q, u),
            q_span,
            k_span,
            slice(at_b * heads, b_span.stop * heads),
        )
        at_q, at_k, at_b = q_span.stop, k_span.stop, b_span.stop


def _flat(x: Tensor) -> Tensor:
    """[1, H, T, d] -> [T * H, d]."""
    return x[0].transpose(0, 1).reshape(-1, x.shape[3])


def _weights(block: _Block, softcap: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights [N G, H/G Q, U] written to `out` [N H Q U], and the logits that they come from."""
    n, _, q, u = block.bias.shape
    shape = (block.query.shape[0], block.query.shape[1], u)
    logits = torch.bmm(block.query, block.key.transpose(1, 2))
    if softcap:
        logits.div_(softcap).tanh_().mul_(softcap)
    seen = logits.view(n, -1, q, u) + block.bias if softcap else logits.view(n, -1, q, u).add_(block.bias)
    return torch.softmax(seen.view(shape), -1, out=out.view(shape)), logits


@torch.library.custom_op("prefrep::tree_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, places: list[Tensor], scaling: float, softcap: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """Attention [1, T, H, d] and, if they are to be kept, the weights of all blocks [sum N H Q U]."""
    at = Places(*places)
    heads = query.shape[1]
    kept = value.new_empty(bias.numel() * heads if keep else 0)
    mixed = value.new_empty(len(at.queries), value.shape[3])
    for block in _gathered(query, key, value, bias, at, scaling):
        out = mixed[block.q].view(*block.query.shape[:2], -1)
        if keep or softcap or query.device.type != "cpu":
            weights, _ = _weights(block, softcap, kept[block.w] if keep else value.new_empty(block.bias.numel() * heads))
            torch.bmm(weights, block.value, out=out)
        else:  # on a CPU a fused kernel is faster where nobody asks for the weights
            n, _, q, u = block.bias.shape
            of_heads = (
                block.query.view(n, heads, q, -1),
                block.key.view(n, -1, u, query.shape[3]),
                block.value.view(n, -1, u, value.shape[3]),
            )
            fused = nn.functional.scaled_dot_product_attention(*of_heads, block.bias, scale=1.0, enable_gqa=True)
            out.copy_(fused.reshape_as(out))
    return mixed.index_select(0, at.out).view(1, -1, heads, value.shape[3]), kept


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, places: list[Tensor], scaling: float, softcap: float, keep: bool) -> Any:
    out = value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    return out, value.new_empty(bias.numel() * query.shape[1] if keep else 0)


@torch.library.custom_op("prefrep::tree_attention_backward", mutates_args=())
def _differentiate(
    gradient: Tensor,
    kept: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    places: list[Tensor],
    scaling: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries [1, H, T, d], keys and values [1, G, T, d]; `gradient` is that of the result, [1, T, H, d]."""
    at = Places(*places)
    heads = query.shape[1]
    g_all = gradient.to(value.dtype).reshape(-1, value.shape[3]).index_select(0, at.queries).index_fill_(0, at.padding, 0)
    dq_all = query.new_empty(len(at.queries), query.shape[3])
    dk_all, dv_all = key.new_empty(len(at.keys), key.shape[3]), value.new_empty(len(at.keys), value.shape[3])
    for block in _gathered(query, key, value, bias, at, scaling):
        g = g_all[block.q].view(*block.query.shape[:2], -1)
        if len(kept):
            weights = kept[block.w].view(*block.query.shape[:2], -1)
        else:
            weights, logits = _weights(block, softcap, value.new_empty(block.bias.numel() * heads))
        torch.bmm(weights.transpose(1, 2), g, out=dv_all[block.k].view_as(block.value))
        dlogits = torch._softmax_backward_data(torch.bmm(g, block.value.transpose(1, 2)), weights, -1, weights.dtype)
        if softcap:
            dlogits.mul_(1 - (logits / softcap).square_())
        torch.bmm(dlogits, block.key, out=dq_all[block.q].view_as(block.query))
        torch.bmm(dlogits.transpose(1, 2), block.query, out=dk_all[block.k].view_as(block.key))

    def summed(rows: Tensor) -> Tensor:  # a prefix is key to many blocks
        total = nn.functional.embedding_bag(at.uses, rows, at.first, mode="sum")
        return total.view(1, key.shape[2], key.shape[1], -1).transpose(1, 2).contiguous()

    dq = dq_all.index_select(0, at.out).mul_(scaling).view(1, query.shape[2], heads, -1).transpose(1, 2).contiguous()
    return dq, summed(dk_all), summed(dv_all)


@_differentiate.register_fake
def _(
    gradient: Tensor, kept: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, places: Any, scaling: float, softcap: float
) -> Any:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    query, key, value, bias, places, ctx.scaling, ctx.softcap, _ = inputs
    ctx.set_materialize_grads(False)  # the weights' gradient would be zeros as large as they are
    ctx.save_for_backward(output[1], query, key, value, bias, *places)


def _backward(ctx: Any, gradient: Tensor, _: None) -> Any:
    kept, query, key, value, bias, *places = ctx.saved_tensors
    found = _differentiate(gradient, kept, query, key, value, bias, places, ctx.scaling, ctx.softcap)
    return (*found, None, [None] * len(places), None, None, None)


_attend.register_autograd(_backward, setup_context=_save)
AttentionInterface.register("trees", tree_attention)
AttentionMaskInterface.register("trees", sdpa_mask)
