"""Log-probabilities of tokens, with the logits of one chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint


def token_logprobs(hidden: Tensor, targets: Tensor, logits: Callable[[Tensor], Tensor], chunk: int = 256) -> Tensor:
    """Return the log-probability of each target under the hidden state before it.

    Args:
        hidden: Hidden states [T, H] of the tokens before the targets.
        targets: Token ids [T].
        logits: Map from hidden states [.., H] to logits [.., V].
        chunk: Number of tokens per chunk; the backward pass recomputes logits.

    Returns:
        Log-probabilities in nats [T], fp32.
    """

    def part(h: Tensor, y: Tensor) -> Tensor:
        return log_softmax(logits(h).float(), dim=-1).gather(-1, y[:, None])[:, 0]

    pieces = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(part, h, y, use_reentrant=False) for h, y in pieces])
