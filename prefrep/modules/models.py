"""Preference models: Bradley-Terry, pair, general and hybrid ones.

A new kind of model is a subclass of `PreferenceModule` whose constructor narrows the type of the head: jsonargparse reads types from there,
so that a wrong combination of module and head is an error of the command line. `**options` are those of `PreferenceModule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prefrep.data.trees import NOBODY, TreeBatch
from prefrep.errors import ConfigError
from prefrep.functional.losses import centre
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.answers import start_from_answers
from prefrep.nn.backbone import Backbone
from prefrep.nn.context import Context
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss

GPM_LOSS: Callable[[], PreferenceLoss] = partial(LogisticLoss, tau=0.1)  # as in the paper


class BradleyTerry(PreferenceModule):
    """Bradley-Terry model: one reward per response, s(i > j) = r_i - r_j. It cannot represent a cycle.

    Args:
        backbone: Builds the language model.
        head: Builds the head.
        loss: Builds the loss; tau 1 as in the paper (the official trainer divides BT scores by 0.1).
        centre: Coefficient of mean((r_chosen + r_rejected)^2), which keeps rewards near zero (arXiv 2312.09244; TRL's
            `center_rewards_coefficient`).
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], BTHead] = BTHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        centre: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, **options)
        if centre < 0:
            raise ConfigError(f"centre must be 0 or more, got {centre}")
        self.centre = centre

    unpaired = True

    def parts(self) -> tuple[Backbone, PreferenceHead, PreferenceLoss]:
        """Return the parts. Raises ConfigError: they exclude each other."""
        backbone, head, loss = super().parts()
        if self.centre > 0 and head.needs_prompt:
            raise ConfigError("centre needs one reward per response, and prompts weigh the objectives of this model; name an --objective")
        return backbone, head, loss

    def _scores(self, embedded: tuple[Tensor, Context], batch: TreeBatch) -> Tensor:
        e, context = embedded
        nobody = e.new_zeros(1, e.shape[1])  # the last row, which the index -1 of `NOBODY` reads: reward 0
        return super()._scores((torch.cat([e, nobody]), context), batch)

    def _pair_losses(self, embedded: tuple[Tensor, Context], scores: Tensor, batch: TreeBatch) -> Tensor:
        """Return the loss of each pair [P]; a pointwise loss is the mean over the responses of a pair."""
        by_itself = batch.pairs[:, 1] == NOBODY
        if not self.loss.pointwise:
            found = super()._pair_losses(embedded, scores, batch)
            if not self.loss.needs_reward:
                return found
            return torch.where(by_itself, self.loss.alone(scores, batch.probability, batch.margin), found)
        alone = []
        for sequence, won in zip(batch.pairs.unbind(1), (batch.probability, 1 - batch.probability), strict=True):
            single = replace(batch, pairs=torch.stack([sequence, torch.full_like(sequence, NOBODY)], 1))
            alone.append(self.loss.alone(self._scores(embedded, single), won, batch.margin))
        return torch.where(by_itself, alone[0], (alone[0] + alone[1]) / 2)

    def _regulariser(self, embedding: Tensor, batch: TreeBatch) -> Tensor | None:
        if self.centre == 0:
            return None
        rewards = self.head.alone(torch.cat([embedding, embedding.new_zeros(1, embedding.shape[1])]))[batch.pairs]  # see `_scores`
        return self.centre * centre(rewards)


class PairPreference(PreferenceModule):
    """Pair model: reads both responses together, in both orders. It represents any preference, at K (K - 1) reads for K responses.

    Args:
        backbone: Builds the language model.
        head: Builds the head.
        loss: Builds the loss.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], PairHead] = PairHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, sft=0.0, **options)

    def parts(self) -> tuple[Backbone, PreferenceHead, PreferenceLoss]:
        """Return the parts; the `tokens` readout starts as the difference between the output embeddings of the answers."""
        backbone, head, loss = super().parts()
        if not isinstance(head, PairHead) or head.readout != "tokens" or self.init is not None:
            return backbone, head, loss
        self._tokenizer = backbone.tokenizer()
        start_from_answers(head, backbone, self._tokenizer)
        return backbone, head, loss


class GeneralPreference(PreferenceModule):
    """General preference model (arXiv 2410.02197): s(i > j) = <R v_i, v_j>. It represents any preference, at K reads for K responses.

    Args:
        backbone: Builds the language model.
        head: Builds the head: embedding dimension, operator, normalisation.
        loss: Builds the loss; tau 0.1 as in the paper.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], GPMHead] = GPMHead,
        loss: Callable[[], PreferenceLoss] = GPM_LOSS,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, **options)


class HybridPreference(PreferenceModule):
    """Reward plus general preference model (arXiv 2605.17342): s(i > j) = (r_i - r_j) + <R v_i, v_j>, at K reads for K responses.

    Args:
        backbone: Builds the language model.
        head: Builds the head: dimension, operator and normalisation of the general preference model.
        loss: Builds the loss; tau 0.1 as for a general preference model. It divides rewards, too, which are free to be smaller.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], HybridHead] = HybridHead,
        loss: Callable[[], PreferenceLoss] = GPM_LOSS,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, **options)
