"""The attention kernel `trees`: attention over packed token trees, block by block, registered with `transformers` under that name.

Layers work on the T tokens that are not padding, and attention goes through the blocks of `functional.blocks`, gathered by the indices of
`nn.masks`.

Shape letters: T tokens that are not padding, H heads, G key-value heads, d width of a head; batches of N blocks with Q queries and U keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefrep.nn.decoding import SharedCache
from prefrep.nn.masks import BlockIndex

TREES = "trees"  # name of the kernel
FLEX = "flex_attention"  # that of torch's, compiled for a mask by `transformers`
SPARSE = (TREES, FLEX)  # tokens that do not see each other cost nothing, however wide a row is

# A layer keeps at most this many attention weights for its backward pass (128 MiB in bf16) and recomputes them if it has more.
KEPT = 2**26


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    block_index: BlockIndex | None = None,
    shared_cache: SharedCache | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention of T tokens in blocks; `transformers` calls this function in every layer.

    Without `block_index` (generation, padded sequences) it is `transformers`' own sdpa. There is no dropout: equal texts get equal scores.

    Args:
        module: The attention layer.
        query: [1, H, T, d].
        key: [1, G, T, d].
        value: [1, G, T, d].
        attention_mask: Biases of `masks.tree_biases`, [1, 1, 1, sum N Q U].
        scaling: Factor of the logits; None: 1 / sqrt(d).
        softcap: Cap c of the logits, c tanh(logits / c), as in Gemma 2.
        s_aux: Sink logits, which this kernel does not support.
        block_index: Indices of heads in blocks.
        shared_cache: Keeps keys and values of prompts (with `block_index`), or adds those of the next tokens of responses (without).
        others: Further arguments of the layer.

    Returns:
        [1, T, H, d], and no attention weights.

    Raises:
        ValueError: The layer has attention sinks, which need another kernel.
    """
    if s_aux is not None:
        raise ValueError("the kernel `trees` does not support attention sinks")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if shared_cache is not None:
        layer: int = cast(Any, module).layer_idx
        if block_index is None:
            assert attention_mask is not None
            return shared_cache.attend(layer, query, key, value, attention_mask, scaling, softcap), None
        shared_cache.keep(layer, key, value)
    if block_index is None:
        if softcap is None:
            others = {**others, "dropout": 0.0}
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
        return _capped(query, key, value, attention_mask, scaling, softcap), None
    assert attention_mask is not None
    dtype = value.dtype  # under autocast, norms may have widened queries and keys
    keep = torch.is_grad_enabled() and softcap is None and attention_mask.numel() * query.shape[1] <= KEPT
    mixed, _ = _attend(query.to(dtype), key.to(dtype), value, attention_mask.flatten(), list(block_index), scaling, softcap or 0.0, keep)
    return mixed, None


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor:
    """Compute attention [1, T, H, d] with a soft cap under a dense boolean mask, which transformers' sdpa does not support."""
    if mask is None:  # causal; the queries are the last of the keys
        q, u = query.shape[2], key.shape[2]
        mask = torch.ones(q, u, dtype=torch.bool, device=query.device).tril(u - q)
    each = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(each, 1) for x in (key, value))
    logits = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    # Not -inf: padding sees no key, and its softmax would be NaN.
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2)


# ---- custom operators, opaque to torch.compile: block shapes change with every batch


class _Block(NamedTuple):
    """One batch of blocks: queries [N G, H/G Q, d], keys and values [N G, U, d], and its slices of all queries, keys and weights."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    q: slice
    k: slice
    w: slice


def _gathered(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, at: BlockIndex, scaling: float) -> Iterator[_Block]:
    """Yield the batches of blocks."""
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
    """Reshape [1, H, T, d] to [T * H, d]."""
    return x[0].transpose(0, 1).reshape(-1, x.shape[3])


def _weights(block: _Block, softcap: float, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write attention weights to `out` [N H Q U]; return them as [N G, H/G Q, U], with the logits before the bias."""
    n, _, q, u = block.bias.shape
    shape = (block.query.shape[0], block.query.shape[1], u)
    logits = torch.bmm(block.query, block.key.transpose(1, 2))
    if softcap:
        logits.div_(softcap).tanh_().mul_(softcap)
    seen = logits.view(n, -1, q, u) + block.bias if softcap else logits.view(n, -1, q, u).add_(block.bias)
    return torch.softmax(seen.view(shape), -1, out=out.view(shape)), logits


@torch.library.custom_op("prefrep::tree_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, index: list[Tensor], scaling: float, softcap: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return attention [1, T, H, d] and, if `keep`, the weights of all blocks [sum N H Q U]."""
    at = BlockIndex(*index)
    heads = query.shape[1]
    kept = value.new_empty(bias.numel() * heads if keep else 0)
    mixed = value.new_empty(len(at.queries), value.shape[3])
    for block in _gathered(query, key, value, bias, at, scaling):
        out = mixed[block.q].view(*block.query.shape[:2], -1)
        if keep or softcap or query.device.type != "cpu":
            weights, _ = _weights(block, softcap, kept[block.w] if keep else value.new_empty(block.bias.numel() * heads))
            torch.bmm(weights, block.value, out=out)
        else:  # on a CPU, a fused kernel is faster if the weights are not kept
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
def _(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, index: list[Tensor], scaling: float, softcap: float, keep: bool) -> Any:
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
    index: list[Tensor],
    scaling: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of queries [1, H, T, d], keys and values [1, G, T, d]; `gradient` is that of the result, [1, T, H, d]."""
    at = BlockIndex(*index)
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

    def summed(rows: Tensor) -> Tensor:  # many blocks share the keys of a prefix
        total = nn.functional.embedding_bag(at.uses, rows, at.first, mode="sum")
        return total.view(1, key.shape[2], key.shape[1], -1).transpose(1, 2).contiguous()

    dq = dq_all.index_select(0, at.out).mul_(scaling).view(1, query.shape[2], heads, -1).transpose(1, 2).contiguous()
    return dq, summed(dk_all), summed(dv_all)


@_differentiate.register_fake
def _(
    gradient: Tensor, kept: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, index: Any, scaling: float, softcap: float
) -> Any:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    query, key, value, bias, index, ctx.scaling, ctx.softcap, _ = inputs
    ctx.set_materialize_grads(False)  # otherwise autograd allocates a zero gradient for the kept weights
    ctx.save_for_backward(output[1], query, key, value, bias, *index)


def _backward(ctx: Any, gradient: Tensor, _: None) -> Any:
    kept, query, key, value, bias, *index = ctx.saved_tensors
    found = _differentiate(gradient, kept, query, key, value, bias, index, ctx.scaling, ctx.softcap)
    return (*found, None, [None] * len(index), None, None, None)


_attend.register_autograd(_backward, setup_context=_save)
AttentionInterface.register(TREES, tree_attention)
AttentionMaskInterface.register(TREES, sdpa_mask)
