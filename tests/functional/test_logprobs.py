"""Chunked log-probabilities equal the plain formula, gradients included."""

from __future__ import annotations

import pytest
import torch

from prefrep.functional.logprobs import token_logprobs

T, H, V = 11, 6, 9


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, H, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, weight, torch.randint(V, (T,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 11, 256])
def test_values_and_gradients(chunk: int) -> None:
    hidden, weight, targets = inputs()
    upstream = torch.arange(1.0, T + 1)
    scores = hidden @ weight.T
    slow = torch.stack([scores[t, targets[t]] - scores[t].exp().sum().log() for t in range(T)])
    expected = torch.autograd.grad((slow * upstream).sum(), (hidden, weight))

    got = token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=chunk)
    assert got.dtype == torch.float32 and (got < 0).all()
    torch.testing.assert_close(got, slow.float(), atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((got * upstream).sum(), (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_log_softmax_to_rounding(dtype: torch.dtype) -> None:
    """Values and gradients of the plain path in the precision of a run, with logits of either sign and of any size."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(20, 16, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(300, 16, generator=generator) * 3).to(dtype).requires_grad_()
    targets, upstream = torch.randint(300, (20,), generator=generator), torch.randn(20, generator=generator)
    plain = (hidden @ weight.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((plain * upstream).sum(), (hidden, weight))
    got = token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=7)
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    rounding = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip(torch.autograd.grad((got * upstream).sum(), (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(a, b, atol=rounding * float(b.abs().max()), rtol=0)


def test_logits_never_exist_for_more_than_a_chunk() -> None:
    hidden, weight, targets = inputs()
    sizes: list[int] = []

    def logits(h: torch.Tensor) -> torch.Tensor:
        sizes.append(len(h))
        return h @ weight.T

    token_logprobs(hidden, targets, logits, chunk=4).sum().backward()
    assert sizes == [4, 4, 3, *sizes[3:]] and sum(sizes) == 2 * T and max(sizes) == 4  # once forward, once again for the gradient


def test_no_tokens() -> None:
    hidden, weight, _ = inputs()
    got = token_logprobs(hidden[:0], torch.zeros(0, dtype=torch.long), lambda h: h @ weight.T)
    assert got.shape == (0,) and got.dtype == torch.float32
