"""Log-probabilities of tokens, with the logits of one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def token_logprobs(hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], chunk: int = 128) -> Tensor:
    """Return the log-probability of each target under the hidden state before it.

    Args:
        hidden: Hidden states [T, H] of the tokens before the targets.
        targets: Token ids [T].
        logits: Map from hidden states [.., H] to logits [.., V].
        chunk: Number of tokens per chunk. Where the map has no trained weights, as that of a policy with adapters, the forward pass keeps
            the gradient with respect to `hidden`, [T, H], and the backward pass scales it; otherwise the backward pass recomputes logits.

    Returns:
        Log-probabilities in nats [T], fp32.
    """

    def part(h: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _Picked.apply(logits(h), y)  # type: ignore[no-untyped-call]
        return found

    pieces = list(zip(hidden.split(chunk), targets.split(chunk), strict=True))
    if hidden.requires_grad and torch.is_grad_enabled() and not logits(hidden[:1].detach()).requires_grad:
        return torch.cat([_Known.apply(h, y, part) for h, y in pieces])  # type: ignore[no-untyped-call]
    return torch.cat([checkpoint(part, h, y, use_reentrant=False) for h, y in pieces])


class _Known(torch.autograd.Function):
    """Log-probabilities whose gradient is known before that of the loss, since each depends on one row of `hidden` alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            rows = hidden.detach().requires_grad_()
            found = part(rows.view_as(rows), targets)  # hooks of modules, as of FLOP counters, take no leaf here
            (gradient,) = torch.autograd.grad(found.sum(), rows)
        ctx.save_for_backward(gradient)
        return found.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (known,) = ctx.saved_tensors
        return (known * gradient[:, None]).to(known.dtype), None, None


class _Picked(torch.autograd.Function):
    """`log_softmax` at one index of each row, of which neither pass stores more than the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        total = logits.float().logsumexp(-1)
        ctx.save_for_backward(logits, targets, total)
        return logits.gather(-1, targets[:, None])[:, 0].float() - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        found = (logits - total[:, None]).exp_()
        scale = gradient[:, None].to(found.dtype)
        found.mul_(-scale).scatter_add_(-1, targets[:, None], scale)
        return found.to(logits.dtype), None
