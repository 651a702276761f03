"""Heads that are trained on kept states in seconds.

Letters: `P` pairs, `H` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from prefrep.data.firsts import Ints
from prefrep.data.trees import TreeBatch
from prefrep.labels.states import Spooled, States, parts
from prefrep.modules import on_states
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.losses import PreferenceLoss

STEP = 8192  # largest number of pairs of an optimizer step


class Kept(nn.Module):
    """What a model needs of a backbone whose states are kept.

    Args:
        hidden_size: H.
    """

    frozen, lora = True, None

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size


def train(
    states: States | Spooled,
    probability: Tensor,
    head: Callable[[int], PreferenceHead],
    loss: Callable[[], PreferenceLoss],
    steps: int,
    lr: float,
    seed: int,
    *,
    margin: Tensor | None = None,
    weight: Tensor | None = None,
    module: type[PreferenceModule] = PreferenceModule,
) -> PreferenceModule:
    """Train a head on kept states with AdamW. Every step takes all pairs, or of more than `STEP` so many, drawn anew in each epoch.

    Args:
        states: States of the pairs.
        probability: P(chosen > rejected) [P].
        head: Builds the head.
        loss: Builds the loss.
        steps: Optimizer steps.
        lr: Learning rate at the start of its cosine.
        seed: Seed of the head.
        margin: See `States.batch`.
        weight: See `States.batch`.
        module: Kind of model.

    Returns:
        The model; it takes batches of `States.batch`.
    """
    optimizer = partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    size = states.at([0]).loaded().prompts.shape[-1]
    built = module(lambda: cast(Backbone, Kept(size)), head, loss, optimizer=optimizer)

    def batch(index: Ints) -> TreeBatch:
        labels = (None if each is None else each[index] for each in (margin, weight))
        return states.at(index).loaded().batch(probability[index], *labels)

    if states.pairs <= STEP:
        return on_states.train(built, [batch(np.arange(states.pairs))] * steps, seed)
    return on_states.train(built, _Drawn(batch, states.pairs, steps, seed), seed)


class _Drawn(Sequence[TreeBatch]):
    """Batches of `STEP` pairs; every epoch deals the pairs anew, and leaves those over that fill no batch."""

    def __init__(self, batch: Callable[[Ints], TreeBatch], pairs: int, steps: int, seed: int) -> None:
        self._batch, self._pairs, self._steps, self._seed = batch, pairs, steps, seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: Any) -> Any:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        epoch, place = divmod(step, self._pairs // STEP)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._pairs)
        return self._batch(np.sort(self._order[place * STEP : (place + 1) * STEP]))


@torch.no_grad()
def log_odds(model: PreferenceModule, states: States | Spooled) -> Tensor:
    """Return the log-odds of chosen over rejected in nats, float64 [P]."""
    return torch.cat([model(part.batch(torch.ones(part.pairs))) for part in parts(states)]).double()
