"""What mixtures of latent types share, for expectation-maximisation; and mixtures of policies (EM-DPO, arXiv:2405.15065)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from prefrep.annotators import Annotators
from prefrep.data.trees import TreeBatch
from prefrep.errors import ConfigError
from prefrep.modules.alignment import ADAMW, SCHEDULE, DirectAlignment
from prefrep.modules.annotating import meet, note, recall
from prefrep.modules.base import Schedule
from prefrep.modules.pair_metrics import Stage
from prefrep.nn.alignment import DPOLoss
from prefrep.nn.backbone import Backbone
from prefrep.nn.people import Types


class Mixture(ABC):
    """A model of latent types of people, each with a part of its own; `callbacks.ExpectTypes` makes its E-steps."""

    @property
    @abstractmethod
    def types(self) -> Types:
        """The types, and who is of which."""

    @abstractmethod
    def log_likelihood(self, batch: TreeBatch) -> Tensor:
        """Return the log-likelihood of each label under each type, times its weight [P, Z]."""


class MixtureAlignment(DirectAlignment, Mixture):
    """A policy for each latent type of people, trained by DPO on the labels of people, weighed by p(type | person) (arXiv:2405.15065).

    An epoch is an M-step; the callback `ExpectTypes` makes the E-steps, in which a type explains a label with probability
    sigmoid(beta times the difference of its log-ratios). All policies begin as pi_0 and differ by the random responsibilities of the start.
    There are as many language models in memory as types. Records name who judged in `annotator`.

    Args:
        backbone: Builds the policy of a type. With LoRA, pi_0 is the base.
        loss: Builds the loss: DPO without smoothing is the likelihood.
        types: Number Z of types.
        start: Concentration of the responsibilities to begin with, see `nn.people.Types`.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule.
        chunk: Number of tokens whose logits are in memory at a time.

    Raises:
        ConfigError: See `DirectAlignment`; or there is no type, or the start is uniform.
    """

    objective: DPOLoss

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        loss: Callable[[], DPOLoss] = DPOLoss,
        types: int = 2,
        start: float = 0.3,
        optimizer: OptimizerCallable = ADAMW,
        schedule: Schedule = SCHEDULE,
        chunk: int = 256,
    ) -> None:
        super().__init__(backbone, loss, "refuse", optimizer, schedule, chunk)
        if self.objective.smoothing > 0:
            raise ConfigError("responsibilities follow from the likelihood of labels, which DPOLoss.smoothing is not; set it to 0")
        self._types = Types(types, start)

    @property
    def types(self) -> Types:  # noqa: D102
        return self._types

    @property
    def annotators(self) -> Annotators:  # type: ignore[override]
        """Whom the mixture knows."""
        return self._types.annotators

    def configure_model(self) -> None:
        """Build the policies, once; `backbone` is that of the first type."""
        if hasattr(self, "backbone"):
            return
        super().configure_model()
        self.others = nn.ModuleList(self._make_backbone() for _ in range(len(self._types.prior) - 1))
        for other in self._policies()[1:]:
            other.train_output()
        meet(self, self._types)

    def _policies(self) -> list[Backbone]:
        return [self.backbone, *(each for each in self.others if isinstance(each, Backbone))]

    def policies(self) -> dict[str, Backbone]:
        """Return the policies by the names of their types."""
        return {f"type-{z}": each for z, each in enumerate(self._policies())}

    @contextmanager
    def _each_type(self) -> Iterator[Iterator[int]]:
        """Iterate over the types; inside, `backbone` is the policy of the present one."""
        own = self._policies()

        def types() -> Iterator[int]:
            for z, policy in enumerate(own):
                policy.supports_trees()
                self.backbone = policy
                yield z

        try:
            yield types()
        finally:
            self.backbone = own[0]

    def _by_type(self, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        """Return loss and log-odds of each pair under each type, [P, Z] both."""
        losses, log_odds = [], []
        with self._each_type() as types:
            for _ in types:
                first, second, divergence = self._responses(batch)
                losses.append(self._pair_losses(first, second, divergence, batch))
                log_odds.append(self._log_odds(first, second))
        return torch.stack(losses, -1), torch.stack(log_odds, -1)

    def _step(self, batch: TreeBatch, stage: Stage) -> Tensor:
        shares = self._types.of(batch.annotator)
        losses, log_odds = self._by_type(batch)
        weighed = (losses * shares).sum(-1)
        loss = self.weighted_mean(weighed, batch.weight)
        self.metrics.record(self, stage, loss.detach(), weighed.detach(), (log_odds.detach() * shares).sum(-1), batch)
        return loss

    def forward(self, batch: TreeBatch) -> Tensor:
        """Return the mean log-odds of each pair over the types that its annotator may be of [P]."""
        return (self._by_type(batch)[1] * self._types.of(batch.annotator)).sum(-1)

    def log_likelihood(self, batch: TreeBatch) -> Tensor:  # noqa: D102
        return -batch.weight.unsqueeze(-1) * self._by_type(batch)[0]

    @torch.no_grad()
    def utilities(self, batch: TreeBatch) -> Tensor:
        """Return what each type gets from the policy of each type: E over y ~ pi_z of log pi_s(y) / pi_0(y), in nats [Z, Z].

        The expectation is over the responses that the batch has for each prompt, with the probabilities that pi_z gives them. Row s and
        column z: `functional.aggregation.minmax_regret` of it are the weights of the policies whose worst regret among types is least.

        Args:
            batch: Prompts with their responses; each datum counts the same.
        """
        assert batch.reference is not None
        logprobs = []
        with self._each_type() as types:
            for _ in types:
                logprobs.append(self.response_logprobs(batch, self._surplus(batch)))
        table = torch.zeros(len(logprobs), len(logprobs), device=batch.reference.device)
        sizes = batch.sizes[:, 0].tolist()
        own = [torch.stack(logprobs).split(sizes, 1), batch.reference.split(sizes)]
        for policies, reference in zip(*own, strict=True):
            table += (policies - reference) @ policies.softmax(-1).T
        return table / len(sizes)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whom the mixture knows."""
        super().on_save_checkpoint(checkpoint)
        note(checkpoint, self._types)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to these policies and their annotators. Raises CheckpointError: it does not."""
        self.configure_model()
        recall(checkpoint, self._types)
        super().on_load_checkpoint(checkpoint)

    def described(self) -> dict[str, Any]:
        """Return the share of each type, and the responsibilities of annotators by name, as plain data."""
        rows = zip(self.annotators.names, self._types.responsibilities.tolist(), strict=True)
        return {"types": self._types.prior.tolist(), "annotators": dict(rows)}
