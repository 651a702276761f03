"""Skew-symmetric scores: of pairs, of K x K tables, by block; their gates; and embeddings made from a given table.

Letters: `D` embedding dimension (even), `K` responses to a prompt, `H` hidden size. One sign convention (arXiv:2410.02197, Definition 4.3
and eq. 4.1, and all of the official code; the theorems of the paper use the other sign):

    s(a > b) = <R a, b> = sum_l w_l (a[2l] b[2l+1] - a[2l+1] b[2l]),    R = blockdiag([[0, -1], [1, 0]])

A positive score means that the first argument wins. Block weights w enter linearly, as in the released checkpoints; the paper's
lambda is their square root.
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
    """The tensor in fp32, or in fp64 where it already is: the precision that scores and losses are computed in.

    The official code computes both in the dtype of the model (bf16) unless it is told otherwise.

    Args:
        tensor: Any floating tensor.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves matrix products on the tensor's device alone.

    Args:
        tensor: Any tensor on the device in question.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def block_scores(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """The score of each 2 x 2 block, w_l (a[2l] b[2l+1] - a[2l+1] b[2l]).

    Exchanging a and b changes the sign and no bit else.

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
    """The score s(a > b) = <R a, b>: positive if a wins.

    Args:
        a: Embeddings of the first responses, [.., D].
        b: Embeddings of the second responses, [.., D].
        weights: Weights of the blocks, [.., D/2]; None: 1.

    Returns:
        [..].
    """
    return block_scores(a, b, weights).sum(-1)


def antisymmetric(table: Tensor) -> Tensor:
    """M - M^T, which is skew in floating point too: x - y and y - x differ in their sign bit only.

    Args:
        table: M, [.., K, K].
    """
    return table - table.transpose(-1, -2)


def table(e: Tensor, weights: Tensor | None = None) -> Tensor:
    """All scores among K responses at once: entry [i, j] is s(i > j).

    Exactly skew (s_ij = -s_ji, s_ii = 0), whatever the order in which a matrix product adds up. One gate serves the whole table, so that
    the gate keeps it so (the official ranking code reads the gate from each row's own run).

    Args:
        e: Embeddings, [.., K, D].
        weights: Weights of the blocks of each prompt, [.., D/2]; None: 1.

    Returns:
        [.., K, K].
    """
    e = widen(e)
    even, odd = e[..., 0::2], e[..., 1::2]
    with full_precision(e):
        if weights is not None:
            even = even * widen(weights).unsqueeze(-2)
        return antisymmetric(even @ odd.transpose(-1, -2))


def block_matrix(dim: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """The canonical operator R = blockdiag([[0, -1], [1, 0]]).

    Args:
        dim: D, even.
        dtype: Of the matrix.
        device: Of the matrix.

    Returns:
        [D, D].
    """
    block = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype, device=device)
    return torch.kron(torch.eye(dim // 2, dtype=dtype, device=device), block)


def gate(logits: Tensor, variant: GateVariant, hidden_size: int) -> Tensor:
    """Weights of the blocks from the gate's logits z; none is negative. k = D/2 is the number of blocks.

    * `softmax`: softmax(z), what the released checkpoints were trained with. The weights sum to 1, so they shrink as k grows.
    * `scaled_softmax`: k softmax(z / sqrt(H)), what the published training code means (it names variables that do not exist, so it cannot
      run). The weights have a mean of 1.
    * `nonnegative`: softplus(z) / log 2, any weights >= 0, as the paper asks and no more. z = 0 gives 1, the ungated score.

    The variants are not interchangeable: a checkpoint must be read with the one it was trained with.

    Args:
        logits: z, [.., D/2].
        variant: Which of the three.
        hidden_size: H.

    Returns:
        [.., D/2].
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
    """Scales and a basis in which a skew-symmetric operator A is block-diagonal: <A a, b> = score(a U, b U, scales).

    This is the real Schur form, through the eigenpairs (i scale, x) of -A, each of which gives two columns of U, sqrt(2) (Re x, Im x).
    Where scales coincide, the basis is one of many.

    Args:
        matrix: A, [D, D], skew-symmetric, D even.

    Returns:
        Scales [D/2], falling, none negative; and U [D, D].
    """
    eigenvalues, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(matrix), matrix))
    half = matrix.shape[-1] // 2
    scales = eigenvalues[..., -half:].flip(-1).clamp_min(0.0)
    columns = math.sqrt(2) * vectors[..., -half:].flip(-1)
    return scales, torch.stack([columns.real, columns.imag], dim=-1).flatten(-2)


def embed_matrix(scores: Tensor, dim: int | None = None) -> Tensor:
    """Embeddings whose table is a given skew-symmetric matrix (Theorem 4.5 of the paper, in the sign convention of this module).

    The eigenpairs (i lambda_l, x_l) with lambda_l > 0 give block l of row i as sqrt(2 lambda_l) (Re x_l[i], Im x_l[i]). The smallest
    dimension that can hold the matrix is its rank, at most 2 floor(K/2): any cycle of three needs two.

    Args:
        scores: S, [K, K], skew-symmetric: entry [i, j] is s(i > j).
        dim: Columns wanted, even. Fewer than the rank: the nearest table in the Frobenius norm; more: zeros are added. None: the rank.

    Returns:
        E, [K, dim], with table(E) = S, in the dtype of S.

    Raises:
        ValueError: S is not skew-symmetric, or dim is odd or negative.
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
