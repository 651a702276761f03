"""Chunked log-probabilities equal the plain formula, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prefrep.functional.logprobs import token_logprobs

T, H, V = 11, 6, 9


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, H, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, weight, torch.randint(V, (T,), generator=generator)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, 11, 256])
def test_values_and_gradients(chunk: int, trained: bool) -> None:
    """With an output layer that is trained, and one that is not, as that of a policy with adapters."""
    hidden, weight, targets = inputs()
    weight.requires_grad_(trained)
    parameters = (hidden, weight) if trained else (hidden,)
    upstream = torch.arange(1.0, T + 1)
    scores = hidden @ weight.T
    slow = torch.stack([scores[t, targets[t]] - scores[t].exp().sum().log() for t in range(T)])
    expected = torch.autograd.grad((slow * upstream).sum(), parameters)

    got = token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=chunk)
    assert got.dtype == torch.float32 and (got < 0).all()
    torch.testing.assert_close(got, slow.float(), atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((got * upstream).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=chunk), got)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_log_softmax_to_rounding(dtype: torch.dtype, trained: bool) -> None:
    """Values and gradients of the plain path in the precision of a run, with logits of either sign and of any size."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(20, 16, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(300, 16, generator=generator) * 3).to(dtype).requires_grad_(trained)
    parameters = (hidden, weight) if trained else (hidden,)
    targets, upstream = torch.randint(300, (20,), generator=generator), torch.randn(20, generator=generator)
    plain = (hidden @ weight.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((plain * upstream).sum(), parameters)
    got = token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=7)
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    rounding = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip(torch.autograd.grad((got * upstream).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(a, b, atol=rounding * float(b.abs().max()), rtol=0)


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operator returns."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))])
        return found


@pytest.mark.parametrize("trained", [True, False])
def test_nothing_is_larger_than_the_logits_of_a_chunk(trained: bool) -> None:
    """Forward and backward, where plain `log_softmax` has those of all tokens."""
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=trained)
    targets = torch.randint(1000, (64,))
    with Largest() as ours:
        token_logprobs(hidden, targets, lambda h: h @ weight.T, chunk=16).sum().backward()
    with Largest() as plain:
        (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).sum().backward()
    assert (ours.size, plain.size) == (16 * 1000, 64 * 1000)


@pytest.mark.parametrize("trained", [True, False])
def test_logits_never_exist_for_more_than_a_chunk(trained: bool) -> None:
    """Those of trained output layers are made once forward and once again for the gradient, others once."""
    hidden, weight, targets = inputs()
    weight.requires_grad_(trained)
    sizes: list[int] = []

    def logits(h: torch.Tensor) -> torch.Tensor:
        sizes.append(len(h))
        return h @ weight.T

    token_logprobs(hidden, targets, logits, chunk=4).sum().backward()
    assert sizes[:4] == [1, 4, 4, 3] and sum(sizes[1:]) == (2 if trained else 1) * T and max(sizes) == 4  # the first asks what is trained


def test_no_tokens() -> None:
    hidden, weight, _ = inputs()
    got = token_logprobs(hidden[:0], torch.zeros(0, dtype=torch.long), lambda h: h @ weight.T)
    assert got.shape == (0,) and got.dtype == torch.float32
