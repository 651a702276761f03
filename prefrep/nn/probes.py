"""Trial forward passes that find out what a language model does, where a list of families would go stale.

Probes raise what the model raises; `trial` prepares a model for them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

# What models and kernels raise that do not support what a probe tries. Mamba, for example, has no attention heads.
UNSUPPORTED = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, AssertionError)

ROUNDING = 0.05  # relative error of hidden states in bfloat16 or float16; a wrong position changes them by more
EXPERT_ROUNDING = 1e-5  # relative error of hidden states in float32; a leak from another branch is larger
POSITION_ROUNDING = 1e-3  # relative error of hidden states in float32 under relative positions
LOGIT_ROUNDING = 0.01  # relative error of logits in bfloat16, if scale and cap are applied in another order


class TreeReader(Protocol):
    """Signature of `Backbone.forward`."""

    def __call__(self, ids: Tensor, positions: Tensor, until: Tensor, padded: bool) -> Tensor:
        """Return hidden states [R, L, H]."""
        ...


@contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode, without gradients, compilation or warnings, and restore its mode."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        model.train(mode)


def passes(model: nn.Module, probe: Callable[[], bool], otherwise: str) -> bool:
    """Return the result of a probe; False, with a line in the log, if the model does not support what it tries."""
    try:
        with trial(model):
            return probe()
    except torch.OutOfMemoryError:
        raise  # not a property of the model
    except UNSUPPORTED as error:
        log.info("%s (%s)", otherwise, error)
        return False


def isolates_branches(read: TreeReader, device: torch.device, experts: bool) -> bool:
    """Return whether the hidden states of a branch are those of its sequence alone, whatever its siblings hold.

    A model that ignores the tree mask, or carries a recurrent state from token to token, leaks one branch into the next. Hidden states must
    be equal bit by bit when a sibling changes, and equal up to rounding to those of the sequence alone: models that compute positions
    themselves (ALiBi) count siblings as distance.

    Args:
        read: The backbone.
        device: Its device.
        experts: Whether it is a mixture of experts, which may round differently when a sibling changes.
    """
    # A prompt of 3 tokens, a response of 48 in two versions, and one of 2: positions along the row would put it far from the prompt.
    sizes = torch.tensor([3, 48, 2], device=device)
    branch = torch.arange(3, device=device).repeat_interleave(sizes)[None]
    places = torch.arange(branch.shape[1], device=device)[None]
    until = torch.tensor([53, 51, 53], device=device)[branch]
    positions = places - (branch == 2) * 48
    one = 5 + places % 7
    two = one + (branch == 1)
    path = (branch != 1)[0]
    a, b = (read(ids, positions, until, padded=False)[:, path] for ids in (one, two))
    alone = read(one[:, path], positions[:, path], torch.full_like(until[:, path], 5), padded=True)
    # The number of tokens per expert determines the order of summation.
    rounds = experts and a.dtype == torch.float32
    same = torch.equal(a, b) or (rounds and bool((a - b).norm() <= EXPERT_ROUNDING * a.norm()))
    return same and bool((a - alone)[:, 3:].norm() <= ROUNDING * alone[:, 3:].norm())


def logits_match(model: Any, bodies: set[nn.Module], width: int, logits: Callable[[Tensor], Tensor]) -> bool:
    """Return whether `logits` computes what a model computes from its last hidden states.

    Hooks replace the last hidden states by made-up ones, large enough to show a soft cap.

    Args:
        model: A causal language model.
        bodies: Its submodules that return last hidden states.
        width: H.
        logits: From hidden states [.., H] to logits [.., V].
    """
    weight = model.get_output_embeddings().weight
    sizes = torch.tensor([0.1, 1.0, 10.0, 100.0], dtype=torch.float32, device=weight.device)
    waves = torch.arange(4 * width, dtype=torch.float32, device=weight.device).sin().view(4, -1)
    hidden = (sizes[:, None] * waves)[None].to(model.dtype)

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = hidden
        return output

    with ExitStack() as hooks:
        for body in bodies:
            hooks.callback(body.register_forward_hook(replace).remove)
        found = model(input_ids=torch.zeros(1, 4, dtype=torch.long, device=weight.device), use_cache=False).logits
    expected = logits(hidden)
    return bool(((expected - found).norm(dim=-1) <= LOGIT_ROUNDING * expected.norm(dim=-1)).all())


def padding_shifts_positions(body: Any, device: torch.device) -> bool:
    """Return whether left padding changes the hidden states of a model that receives no `position_ids`.

    Args:
        body: A language model without its output layer.
        device: Its device.
    """
    ids = 5 + torch.arange(16, device=device)[None] % 7
    mask = (torch.arange(32, device=device) >= 16).long()[None]
    alone = body(input_ids=ids, use_cache=False).last_hidden_state
    padded = body(input_ids=torch.cat([ids, ids], 1), attention_mask=mask, use_cache=False).last_hidden_state[:, 16:]
    tolerance = POSITION_ROUNDING if alone.dtype == torch.float32 else ROUNDING
    return bool((padded - alone).norm() > tolerance * alone.norm())
