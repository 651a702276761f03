"""Log-probabilities of tokens without holding the logits of all of them at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint


def token_logprobs(hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], chunk: int = 256) -> Tensor:
    """Log-probability of each target under the hidden state before it.

    Args:
        hidden: Hidden states [T, H] that predict.
        targets: Token ids [T] that are predicted.
        logits: Hidden states [.., H] -> logits [.., V].
        chunk: Tokens whose logits exist at a time; they are computed again in the backward pass.

    Returns:
        Log-probabilities in nats [T], fp32.
    """

    def part(h: Tensor, y: Tensor) -> Tensor:
        return log_softmax(logits(h).float(), dim=-1).gather(-1, y[:, None])[:, 0]

    pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(part, h, y, use_reentrant=False) for h, y in pieces])
