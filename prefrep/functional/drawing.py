"""Drawing tokens from logits with one uniform number each, by inverting the cumulative distribution.

What a row draws depends on its logits and its number alone, so that a response does not depend on the batch that it was sampled in.

Shape letters: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from prefrep.errors import TrainingError

BLOCK = 256  # tokens whose masses are summed before the cumulative sum: 1 / 256 of the work of a sum over all
LIKELY = 128  # tokens that a nucleus is sought among before the whole vocabulary is sorted


class Drawn(NamedTuple):
    """Tokens and what the logits said about them.

    Args:
        tokens: Token ids [R].
        logprobs: Log-probabilities of the tokens in nats at temperature 1, without truncation [R].
        entropies: Entropies in nats at temperature 1, without truncation [R].
    """

    tokens: Tensor
    logprobs: Tensor
    entropies: Tensor


def draw(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Drawn:
    """Draw a token from each row, after temperature, top-k and top-p in this order, as `transformers` applies them.

    Args:
        logits: Logits [R, V], fp32.
        uniform: Numbers in [0, 1), fp64 [R].
        temperature: Divides the logits; 0: the likeliest token.
        top_k: Only the k likeliest tokens, and those that tie with the last of them; 0: all.
        top_p: Only the likeliest tokens whose predecessors have less than this mass (arXiv 1904.09751).

    Raises:
        TrainingError: The logits of a row have no distribution: some are NaN or infinity, or all are -infinity.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    mass = shifted.exp()
    log_total = mass.sum(-1).log()
    if not bool(log_total.isfinite().all()):
        raise TrainingError(
            "the logits of the next token are not finite, so nothing is sampled; use a policy that has not diverged, or read it in float32"
        )
    entropies = log_total - torch.einsum("rv,rv->r", mass, shifted) / log_total.exp()
    if bool(entropies.isnan().any()):  # tokens that are never drawn: 0 * -inf
        entropies = log_total - torch.einsum("rv,rv->r", mass, shifted.clamp_min(torch.finfo(shifted.dtype).min)) / log_total.exp()
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        if temperature != 1:
            mass = torch.div(shifted, temperature, out=mass).exp_()
        if 0 < top_k < logits.shape[-1]:
            mass = mass.masked_fill_(shifted < shifted.topk(top_k).values[:, -1:], 0)
        tokens = invert(mass, uniform) if top_p == 1 else _nucleus(mass, uniform, top_p, min(LIKELY, mass.shape[-1]))
    return Drawn(tokens, shifted.gather(-1, tokens[:, None])[:, 0] - log_total, entropies)


def invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """Return the first token of each row whose cumulative mass exceeds the given share of the whole.

    Args:
        mass: Masses [R, V], not negative and not all zero; they need not sum to 1.
        uniform: Shares in [0, 1), fp64 [R].

    Returns:
        Token ids [R]; none has mass 0.

    Example:
        >>> invert(torch.tensor([[1.0, 0.0, 3.0]]).expand(3, 3), torch.tensor([0.0, 0.24, 0.25], dtype=torch.float64)).tolist()
        [0, 0, 2]
    """
    blocks = pad(mass, (0, -mass.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).double().cumsum(-1)
    target = torch.minimum(uniform * sums[:, -1], torch.nextafter(sums[:, -1], torch.zeros_like(uniform)))[:, None]
    block = (sums <= target).sum(-1, keepdim=True)
    before = torch.where(block > 0, sums.gather(-1, (block - 1).clamp_min(0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]]
    place = (inside.double().cumsum(-1) <= target - before).sum(-1)
    # The sum of a block in fp32 can exceed that of its parts in fp64 by a rounding.
    last = BLOCK - 1 - (inside.flip(-1) > 0).int().argmax(-1)
    found: Tensor = block[:, 0] * BLOCK + torch.minimum(place, last)
    return found


def _nucleus(mass: Tensor, uniform: Tensor, top_p: float, width: int) -> Tensor:
    """Draw from the nucleus, sought among the `width` likeliest tokens of each row, and beyond where it is larger."""
    likely, index = mass.topk(width)
    likely, bound = likely.double(), top_p * mass.sum(-1, dtype=torch.float64)[:, None]
    upto = likely.cumsum(-1)
    kept = torch.where(upto - likely < bound, likely, 0.0)
    tokens: Tensor = index.gather(-1, invert(kept, uniform)[:, None])[:, 0]
    if width < mass.shape[-1] and len(wide := (upto[:, -1:] < bound)[:, 0].nonzero()[:, 0]):
        tokens[wide] = _nucleus(mass[wide], uniform[wide], top_p, mass.shape[-1])
    return tokens
