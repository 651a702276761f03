"""Comparisons as one bilinear form: vectors and a skew matrix that a client multiplies itself, without torch and without this package.

    s(i > j) = <u_i, A(x) u_j>,    A = -A^T

A general preference model has u = v and A = R^T; Bradley-Terry has u = (r, 1), which is the model with D = 2 of arXiv:2410.02197. Heads
that read pairs have no embedding of a single response. Scores are not yet divided by tau.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PreferenceHead


@singledispatch
def bilinear(head: PreferenceHead, e: Tensor, context: Context = ANYBODY) -> tuple[Tensor, Tensor]:
    """Return the vectors of K responses and the matrix that compares them.

    Args:
        head: The head that made the embeddings.
        e: Embeddings, [K, D].
        context: The prompt, and who is asked.

    Returns:
        u, [K, U], and A, [U, U]; U is D for a general preference model, 2 for Bradley-Terry and D + 2 for a hybrid of both.

    Raises:
        ConfigError: The head has no such form.
    """
    raise ConfigError(f"{type(head).__name__} embeds no single response, so there is nothing to compare elsewhere; ask for tables")


@bilinear.register
def _(head: BTHead, e: Tensor, context: Context = ANYBODY) -> tuple[Tensor, Tensor]:
    return torch.cat([e, torch.ones_like(e)], -1), torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=e.dtype, device=e.device)


@bilinear.register
def _(head: GPMHead, e: Tensor, context: Context = ANYBODY) -> tuple[Tensor, Tensor]:
    return e, head.skew.matrix(context).to(e.dtype).transpose(-1, -2)


@bilinear.register
def _(head: HybridHead, e: Tensor, context: Context = ANYBODY) -> tuple[Tensor, Tensor]:
    parts = bilinear(head.reward, e[..., :1]), bilinear(head.preference, e[..., 1:], context)
    return torch.cat([u for u, _ in parts], -1), torch.block_diag(*(a for _, a in parts))
