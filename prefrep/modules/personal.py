"""Preference models that ask who judges: personal rewards, and mixtures of latent types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from prefrep.data.trees import TreeBatch
from prefrep.modules.mixture import Mixture
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.context import Context
from prefrep.nn.losses import LogisticLoss, PreferenceLoss
from prefrep.nn.mixture import MixtureHead
from prefrep.nn.people import Types
from prefrep.nn.personal import PersonalHead, PersonalRewardHead


class PersonalPreference(PreferenceModule):
    """One reward per person and response, s_u(i > j) = r_u(i) - r_u(j), at K reads for K responses and any number of persons.

    Records name who judged in `annotator`. (General preferences of persons are a `GeneralPreference` with the operator `PersonalSkew`.)

    Args:
        backbone: Builds the language model.
        head: Builds the head: PersonalHead (arXiv 2405.00254) or IdealPointHead (arXiv 2406.08469).
        loss: Builds the loss.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], PersonalRewardHead] = PersonalHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, **options)


class MixturePreference(PreferenceModule, Mixture):
    """Latent types of people (arXiv 2405.15065): each type's head learns from the labels of people, weighed by p(type | person).

    An epoch is an M-step; the callback `ExpectTypes` makes the E-steps. Records name who judged in `annotator`.

    Args:
        backbone: Builds the language model.
        head: Builds the head: number of types, and the head of a type.
        loss: Builds the loss; LogisticLoss is the likelihood.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        head: Callable[[int], MixtureHead] = MixtureHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        **options: Any,
    ) -> None:
        super().__init__(backbone, head, loss, **options)

    @property
    def types(self) -> Types:
        """The types, and who is of which."""
        return cast(MixtureHead, self.head).types

    def _by_type(self, embedded: tuple[Tensor, Context], batch: TreeBatch) -> Tensor:
        """Return the loss of each pair under each type [P, Z]."""
        e, context = embedded
        a, b = batch.pairs.unbind(1)
        scores = cast(MixtureHead, self.head).by_type(e[a], e[b], context)
        return torch.stack([self.loss(each, batch.probability, batch.margin) for each in scores.unbind(-1)], -1)

    def _pair_losses(self, embedded: tuple[Tensor, Context], scores: Tensor, batch: TreeBatch) -> Tensor:
        return (self._by_type(embedded, batch) * self.types.of(batch.annotator)).sum(-1)

    def log_likelihood(self, batch: TreeBatch) -> Tensor:
        """Return the log-likelihood of each label under each type, times its weight [P, Z]."""
        return -batch.weight.unsqueeze(-1) * self._by_type(self.embeddings(self.hidden(batch), batch), batch)
