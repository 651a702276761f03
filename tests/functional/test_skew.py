"""The score, its table, gates and constructions against numbers worked out by hand and against explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prefrep.functional import skew


def operator(dim: int, weights: list[float] | None = None) -> Tensor:
    """R, entry by entry, as Definition 4.2 draws it."""
    matrix = torch.zeros(dim, dim, dtype=torch.float64)
    for block in range(dim // 2):
        weight = 1.0 if weights is None else weights[block]
        matrix[2 * block, 2 * block + 1] = -weight
        matrix[2 * block + 1, 2 * block] = weight
    return matrix


def random_skew(size: int, seed: int = 0) -> Tensor:
    """A skew-symmetric matrix in fp64."""
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return matrix - matrix.T


def test_score_of_one_block() -> None:
    """(1, 2) against (3, 4): 1 * 4 - 2 * 3."""
    assert skew.score(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).item() == -2.0


def test_score_of_two_blocks() -> None:
    """Blocks give 1 * 6 - 2 * 5 = -4 and 3 * 8 - 4 * 6 = 0, then weights 0.5 and 2."""
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 6.0, 8.0])
    assert skew.block_scores(a, b).tolist() == [-4.0, 0.0]
    assert skew.score(a, b).item() == -4.0
    assert skew.block_scores(a, b, torch.tensor([0.5, 2.0])).tolist() == [-2.0, 0.0]
    assert skew.score(b, a, torch.tensor([0.5, 2.0])).item() == 2.0


def test_block_matrix() -> None:
    """Written out for two blocks."""
    assert skew.block_matrix(4).tolist() == [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]]


@pytest.mark.parametrize("dim", [2, 4, 6, 8])
def test_score_equals_the_explicit_operator(dim: int) -> None:
    """<R a, b>, one response at a time; also (a R^T) . b, which is how the official loss writes it."""
    torch.manual_seed(dim)
    a, b = torch.randn(2, 5, dim, dtype=torch.float64)
    weights = torch.rand(5, dim // 2, dtype=torch.float64)
    for row in range(5):
        plain = torch.dot(operator(dim) @ a[row], b[row])
        gated = torch.dot(operator(dim, weights[row].tolist()) @ a[row], b[row])
        torch.testing.assert_close(skew.score(a, b)[row], plain)
        torch.testing.assert_close(skew.score(a, b, weights)[row], gated)
    official = torch.bmm((a @ operator(dim).T).unsqueeze(1), b.unsqueeze(2)).flatten()
    torch.testing.assert_close(skew.score(a, b), official)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_table_is_exactly_skew_and_holds_the_scores(dtype: torch.dtype, gated: bool) -> None:
    """No tolerance for the symmetry; a table entry is the score of its pair up to the order of additions."""
    torch.manual_seed(0)
    e = torch.randn(3, 7, 10).to(dtype)
    weights = torch.rand(3, 5).to(dtype) if gated else None
    table = skew.table(e, weights)
    assert table.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(table, -table.transpose(-1, -2))
    assert not table.diagonal(dim1=-2, dim2=-1).any()
    pairs = skew.score(e.unsqueeze(-2), e.unsqueeze(-3), None if weights is None else weights[:, None, None])
    torch.testing.assert_close(table, pairs, rtol=1e-5, atol=1e-5)
    assert torch.equal(pairs, -pairs.transpose(-1, -2))


def test_autocast_does_not_lower_the_precision() -> None:
    """The table under bf16 autocast is the one without."""
    torch.manual_seed(0)
    e = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered, table = e @ e.T, skew.table(e)
    assert lowered.dtype == torch.bfloat16
    assert torch.equal(table, skew.table(e))


def test_sign_of_the_stacked_construction() -> None:
    """Theorem 4.4 in this sign convention: block l of v_i = (P_il / 2, delta_il) returns +P."""
    p = random_skew(5)
    e = torch.stack([p / 2, torch.eye(5, dtype=torch.float64)], dim=-1).flatten(1)
    torch.testing.assert_close(skew.table(e), p)


def test_disc_game_is_bradley_terry() -> None:
    """V = (r, c) gives c (r_i - r_j): the higher reward wins."""
    rewards, c = torch.tensor([1.5, -0.5, 3.0]), 2.0
    e = torch.stack([rewards, torch.full_like(rewards, c)], dim=-1)
    assert skew.table(e).tolist() == [[0.0, 4.0, -3.0], [-4.0, 0.0, -7.0], [3.0, 7.0, 0.0]]


def test_circle() -> None:
    """V = (cos, sin) gives sin(theta_j - theta_i)."""
    theta = torch.tensor([0.0, 0.4, 2.0, 4.5], dtype=torch.float64)
    e = torch.stack([theta.cos(), theta.sin()], dim=-1)
    torch.testing.assert_close(skew.table(e), (theta[None, :] - theta[:, None]).sin())


def test_complex_form() -> None:
    """With z_l = v[2l] + i v[2l+1] the score is -Im sum_l z_a conj(z_b)."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 6, dtype=torch.float64)
    za, zb = (torch.view_as_complex(v.reshape(4, 3, 2)) for v in (a, b))
    torch.testing.assert_close(skew.score(a, b), -(za * zb.conj()).sum(-1).imag)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
def test_embed_matrix_is_exact_at_the_rank(size: int) -> None:
    """Theorem 4.5 in this sign convention; a generic matrix has rank 2 floor(K/2)."""
    p = random_skew(size, seed=size)
    e = skew.embed_matrix(p)
    assert e.shape == (size, 2 * (size // 2))
    torch.testing.assert_close(skew.table(e), p, rtol=0, atol=1e-13)
    torch.testing.assert_close(skew.table(skew.embed_matrix(p, dim=12)), p, rtol=0, atol=1e-13)
    single = p.float()
    assert skew.embed_matrix(single).dtype == torch.float32
    torch.testing.assert_close(skew.table(skew.embed_matrix(single)), single, rtol=0, atol=1e-5)


def test_embed_matrix_of_a_cycle_needs_two_dimensions() -> None:
    """A > B > C > A has rank 2, the only table here that two dimensions must hold exactly."""
    cycle = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    e = skew.embed_matrix(cycle)
    assert e.shape == (3, 2)
    torch.testing.assert_close(skew.table(e), cycle)


def test_embed_matrix_with_too_few_dimensions_is_the_nearest() -> None:
    """What is lost is the norm of the smaller singular values (Eckart and Young)."""
    p = random_skew(6)
    singular = torch.linalg.svdvals(p)
    for dim in (0, 2, 4):
        lost = (skew.table(skew.embed_matrix(p, dim)) - p).norm()
        torch.testing.assert_close(lost, singular[dim:].norm())


def test_embed_matrix_refuses() -> None:
    """A symmetric part and an odd dimension."""
    with pytest.raises(ValueError, match="skew-symmetric"):
        skew.embed_matrix(torch.tensor([[0.0, 1.0], [-0.9, 0.0]]))
    with pytest.raises(ValueError, match="skew-symmetric"):
        skew.embed_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="even"):
        skew.embed_matrix(torch.zeros(2, 2), dim=3)


def test_embed_matrix_of_nothing() -> None:
    """A table of ties has rank 0."""
    assert skew.embed_matrix(torch.zeros(3, 3)).shape == (3, 0)


def test_gates_by_hand() -> None:
    """Softmax of (0, log 3) is (1/4, 3/4); softplus(log 3) = log 4, and log 4 / log 2 = 2."""
    z = torch.tensor([0.0, math.log(3)])
    torch.testing.assert_close(skew.gate(z, "softmax", 16), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(skew.gate(4 * z, "scaled_softmax", 16), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(skew.gate(z, "nonnegative", 16), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="variant"):
        skew.gate(z, "sigmoid", 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["softmax", "scaled_softmax"])
def test_softmax_gates_do_nothing_to_one_block(variant: skew.GateVariant) -> None:
    """Softmax of a single number is 1."""
    torch.manual_seed(0)
    a, b, z = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 1)
    assert torch.equal(skew.score(a, b, skew.gate(z, variant, 16)), skew.score(a, b))


def test_bounds_with_unit_embeddings() -> None:
    """|s| <= 1 with and without a softmax gate, so P lies within sigmoid(+-10) at tau = 0.1; the bound is reached."""
    torch.manual_seed(0)
    a, b = F.normalize(torch.randn(2, 2000, 4, dtype=torch.float64), dim=-1)
    weights = skew.gate(3 * torch.randn(2000, 2, dtype=torch.float64), "softmax", 16)
    for scores in (skew.score(a, b), skew.score(a, b, weights)):
        assert scores.abs().max() <= 1
        probability = torch.sigmoid(scores / 0.1)
        assert 4.5e-5 < probability.min() and probability.max() < 1 - 4.5e-5
    a = F.normalize(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), dim=0)
    assert skew.score(a, a @ operator(4).T).item() == pytest.approx(1.0)


@pytest.mark.parametrize("dim", [2, 4, 6])
def test_canonical_form(dim: int) -> None:
    """Falling scales and an orthogonal basis in which the operator is block-diagonal."""
    matrix = random_skew(dim)
    scales, basis = skew.canonical_form(matrix)
    assert (scales >= 0).all() and (scales.diff() <= 0).all()
    torch.testing.assert_close(basis.T @ basis, torch.eye(dim, dtype=torch.float64))
    torch.testing.assert_close(basis @ operator(dim, scales.tolist()) @ basis.T, matrix)


def test_canonical_form_of_a_singular_operator() -> None:
    """One block of two: scales (2, 0)."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[0, 3], matrix[3, 0] = 2.0, -2.0
    scales, basis = skew.canonical_form(matrix)
    torch.testing.assert_close(scales, torch.tensor([2.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(basis @ operator(4, scales.tolist()) @ basis.T, matrix)


def test_gradients() -> None:
    """Against finite differences."""
    torch.manual_seed(0)
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    e = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    for variant in ("softmax", "scaled_softmax", "nonnegative"):
        assert torch.autograd.gradcheck(lambda a, b, z, v=variant: skew.score(a, b, skew.gate(z, v, 9)), (a, b, z))
        assert torch.autograd.gradcheck(lambda e, z, v=variant: skew.table(e, skew.gate(z, v, 9)), (e, z))
