"""Skew-symmetric scores of pairs, of K x K tables and by block; gates; and embeddings of a given table.

Letters: `D` embedding dimension (even), `K` responses to a prompt, `H` hidden size. One sign convention (arXiv:2410.02197, Definition 4.3
and eq. 4.1, and all of the official code; the theorems of the paper use the other sign):

    s(a > b) = <R a, b> = sum_l w_l (a[2l] b[2l+1] - a[2l+1] b[2l]),    R = blockdiag([[0, -1], [1, 0]])

A positive score means that the first argument wins. Block weights w enter linearly, as in the released checkpoints; lambda in the paper is
their square root.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

GateVariant = Literal["softmax", "scaled_softmax", "nonnegative"]


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor in fp32, or in fp64 if it already is: the precision of scores and losses.

    The official code computes both in the dtype of the model (bf16) by default.

    Args:
        tensor: Any floating tensor.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of a tensor.

    Args:
        tensor: Any tensor on the device.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def block_scores(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the score of each 2 x 2 block, w_l (a[2l] b[2l+1] - a[2l+1] b[2l]).

    Exchanging a and b flips the sign bit and no other.

    Args:
        a: Embeddings of the first responses, [.., D].
        b: Embeddings of the second responses, [.., D].
        weights: Weights of the blocks, [.., D/2]; None: 1.

    Returns:
        [.., D/2].
    """
    a, b = widen(a), widen(b)
    blocks = a[..., 0::2] * b[..., 1::2] - a[..., 1::2] * b[..., 0::2]
    return blocks if weights is None else blocks * widen(weights)


def score(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the score s(a > b) = <R a, b>, positive if a wins.

    Args:
        a: Embeddings of the first responses, [.., D].
        b: Embeddings of the second responses, [.., D].
        weights: Weights of the blocks, [.., D/2]; None: 1.

    Returns:
        [..].
    """
    return block_scores(a, b, weights).sum(-1)


def antisymmetric(table: Tensor) -> Tensor:
    """Return M - M^T, which is exactly skew in floating point: x - y and y - x differ in their sign bit only.

    Args:
        table: M, [.., K, K].
    """
    return table - table.transpose(-1, -2)


def table(e: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return all scores among K responses: entry [i, j] is s(i > j).

    The table is exactly skew (s_ij = -s_ji, s_ii = 0), whatever the order of summation in the matrix product. All entries share one gate,
    which keeps the table skew (the official ranking code computes the gate of each row in its own sequence).

    Args:
        e: Embeddings, [.., K, D].
        weights: Weights of the blocks of each prompt, [.., D/2]; None: 1.

    Returns:
        [.., K, K].

    Example:
        A cycle: each response beats the next one.

        >>> angles = torch.arange(3) * 2 * torch.pi / 3
        >>> table(torch.stack([angles.cos(), angles.sin()], -1)).sign().int().tolist()
        [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]
    """
    e = widen(e)
    even, odd = e[..., 0::2], e[..., 1::2]
    with full_precision(e):
        if weights is not None:
            even = even * widen(weights).unsqueeze(-2)
        return antisymmetric(even @ odd.transpose(-1, -2))


def block_matrix(dim: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """Return the canonical operator R = blockdiag([[0, -1], [1, 0]]).

    Args:
        dim: D, even.
        dtype: Dtype of the matrix.
        device: Device of the matrix.

    Returns:
        [D, D].

    Example:
        >>> block_matrix(4).int().tolist()
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]]
    """
    block = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype, device=device)
    return torch.kron(torch.eye(dim // 2, dtype=dtype, device=device), block)


def gate(logits: Tensor, variant: GateVariant, hidden_size: int) -> Tensor:
    """Return the weights of the k = D/2 blocks, none negative, from the logits z of a gate.

    * `softmax`: softmax(z), as in the released checkpoints. The weights sum to 1, so they shrink as k grows.
    * `scaled_softmax`: k softmax(z / sqrt(H)), the intention of the published training code (which uses undefined variables and cannot
      run). The weights have mean 1.
    * `nonnegative`: softplus(z) / log 2, any weights >= 0, the only condition in the paper. z = 0 gives 1, the ungated score.

    The variants are not interchangeable: a checkpoint needs the one that it was trained with.

    Args:
        logits: z, [.., D/2].
        variant: One of the three.
        hidden_size: H.

    Returns:
        [.., D/2].

    Raises:
        ValueError: The variant is unknown.
    """
    logits = widen(logits)
    match variant:
        case "softmax":
            return logits.softmax(-1)
        case "scaled_softmax":
            return logits.shape[-1] * (logits / math.sqrt(hidden_size)).softmax(-1)
        case "nonnegative":
            return F.softplus(logits) / math.log(2)
        case _:
            raise ValueError(f"gate variant must be softmax, scaled_softmax or nonnegative, got {variant!r}")


def canonical_form(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and a basis U in which a skew-symmetric operator A is block-diagonal: <A a, b> = score(a U, b U, scales).

    This is the real Schur form. Each eigenpair (i scale, x) of -A gives two columns of U, sqrt(2) (Re x, Im x). If scales coincide, the
    basis is not unique.

    Args:
        matrix: A, [D, D], skew-symmetric, D even.

    Returns:
        Scales [D/2] in descending order, none negative; and U [D, D].
    """
    eigenvalues, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(matrix), matrix))
    half = matrix.shape[-1] // 2
    scales = eigenvalues[..., -half:].flip(-1).clamp_min(0.0)
    columns = math.sqrt(2) * vectors[..., -half:].flip(-1)
    return scales, torch.stack([columns.real, columns.imag], dim=-1).flatten(-2)


def embed_matrix(scores: Tensor, dim: int | None = None) -> Tensor:
    """Return embeddings with a given skew-symmetric table (Theorem 4.5 of the paper, in the sign convention of this module).

    The eigenpairs (i lambda_l, x_l) with lambda_l > 0 give block l of row i as sqrt(2 lambda_l) (Re x_l[i], Im x_l[i]). The smallest
    sufficient dimension is the rank of the matrix, at most 2 floor(K/2); a cycle of three needs two.

    Args:
        scores: S, [K, K], skew-symmetric: entry [i, j] is s(i > j).
        dim: Number of columns, even. Below the rank: the nearest table in the Frobenius norm; above: padded with zeros. None: the rank.

    Returns:
        E, [K, dim], with table(E) = S, in the dtype of S.

    Raises:
        ValueError: S is not skew-symmetric, or dim is odd or negative.

    Example:
        >>> cycle = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
        >>> embeddings = embed_matrix(cycle)
        >>> embeddings.shape, torch.allclose(table(embeddings), cycle, atol=1e-6)
        (torch.Size([3, 2]), True)
    """
    wide = scores.double()
    if wide.ndim != 2 or wide.shape[0] != wide.shape[1] or not torch.allclose(wide, -wide.T, rtol=1e-5, atol=1e-6 * _largest(wide)):
        raise ValueError(f"embed_matrix: scores must be skew-symmetric (S = -S^T), got a tensor of shape {list(scores.shape)} that is not")
    if dim is not None and (dim < 0 or dim % 2):
        raise ValueError(f"embed_matrix: dim must be even and not negative, got {dim}")
    wide = antisymmetric(wide) / 2
    eigenvalues, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(wide), -wide))
    threshold = _largest(eigenvalues) * wide.shape[0] * torch.finfo(scores.dtype).eps
    rank = 2 * int((eigenvalues > threshold).sum())
    kept = (rank if dim is None else min(dim, rank)) // 2
    order = eigenvalues.argsort(descending=True)[:kept]
    columns = vectors[:, order] * (2 * eigenvalues[order]).sqrt()
    embeddings = torch.stack([columns.real, columns.imag], dim=-1).flatten(1)
    return F.pad(embeddings, (0, (rank if dim is None else dim) - 2 * kept)).to(scores.dtype)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
