"""Embeddings without a language model: which tables of comparisons D numbers per answer can represent, by optimisation.

Letters: `B` tables, `R` restarts, `K` answers, `D` dimension; `D = 1` is Bradley-Terry, one number per answer, s_ij = r_i - r_j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from prefrep.functional.skew import antisymmetric, table

Kind = Literal["cycle", "tournament"]
DIMS = (2, 4, 6, 8)
LR, TOLERANCE = 0.05, 0.01  # learning rate of Adam; tolerance of the values of a table of ones


def structure(answers: int, kind: Kind, generator: torch.Generator) -> Tensor:
    """Return a cycle 0 > 1 > ... > K-1 > 0 as a table of 1, -1 and, for pairs that are not compared, 0.

    Args:
        answers: K.
        kind: `cycle`: only the K comparisons of the cycle. `tournament`: the others too, each decided at random.
        generator: Random generator.

    Returns:
        [K, K], skew-symmetric.
    """
    coins = torch.randint(0, 2, (answers, answers), generator=generator) * 2.0 - 1
    upper = coins.triu(1) if kind == "tournament" else torch.zeros(answers, answers)
    i = torch.arange(answers - 1)
    upper[i, i + 1] = 1.0
    upper[0, -1] = -1.0
    return antisymmetric(upper)


def rank_bound(answers: int) -> int:
    """Return the dimension that represents any table of K answers, 2 floor(K / 2), and that a complete table of ones needs.

    For even K its determinant is odd (modulo 2 that of J - I, which is K - 1), so its rank is K; an odd K contains an even K - 1.
    """
    return 2 * (answers // 2)


def scores(e: Tensor) -> Tensor:
    """Return the tables [.., K, K] of embeddings [.., K, D]."""
    return antisymmetric(e.expand(*e.shape[:-1], e.shape[-2])) if e.shape[-1] == 1 else table(e)


def fit(wanted: Tensor, dim: int, loss: Literal["sign", "value"], restarts: int, steps: int = 1500, seed: int = 0) -> Tensor:
    """Train embeddings of many tables at once (Adam, cosine schedule).

    Args:
        wanted: Tables [B, K, K]: signs; log-odds; 0 for pairs that are not compared.
        dim: D, even or 1.
        loss: `sign`: logistic loss on the sign. `value`: squared error of the log-odds.
        restarts: Random restarts R of each table.
        steps: Optimizer steps.
        seed: Seed of the restarts.

    Returns:
        [B, R, K, D].
    """
    generator = torch.Generator().manual_seed(seed)
    wanted, compared = wanted[:, None], (wanted != 0)[:, None]
    e = torch.randn(len(wanted), restarts, wanted.shape[-1], dim, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([e], lr=LR)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        found = scores(e)
        errors = F.softplus(-found * wanted.sign()) if loss == "sign" else (found - wanted) ** 2
        (errors * compared).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return e.detach()


def fits(wanted: Tensor, e: Tensor, loss: Literal["sign", "value"]) -> Tensor:
    """Return which embeddings [B, R, K, D] represent their table, in sign or within `TOLERANCE` [B, R]."""
    found, wanted = scores(e), wanted[:, None]
    right = found * wanted.sign() > 0 if loss == "sign" else (found - wanted).abs() < TOLERANCE
    return (right | (wanted == 0)).all(-1).all(-1)


def smallest(wanted: Tensor, dims: Sequence[int], loss: Literal["sign", "value"], restarts: int, steps: int = 1500) -> list[int | None]:
    """Return the smallest dimension at which any restart represents each table; None: none does."""
    found: list[int | None] = [None] * len(wanted)
    for dim in dims:
        open_ = [i for i, known in enumerate(found) if known is None]
        if not open_:
            break
        held = fits(wanted[open_], fit(wanted[open_], dim, loss, restarts, steps), loss).any(1).tolist()
        for i, it in zip(open_, held, strict=True):
            found[i] = dim if it else None
    return found
