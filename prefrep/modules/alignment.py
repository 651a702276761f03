"""Policies that learn from preferences between given responses, without sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from prefrep.annotators import Annotators
from prefrep.data.across import Across
from prefrep.data.offline import PolicyReading
from prefrep.data.trees import NOBODY, TreeBatch
from prefrep.errors import ConfigError, DataError
from prefrep.modules.base import Schedule
from prefrep.modules.pair_metrics import PairMetrics, Stage
from prefrep.modules.policy import PolicyModule
from prefrep.modules.preference import adamw
from prefrep.modules.steps import ComparingSteps
from prefrep.nn.alignment import AlignmentLoss, DPOLoss, Responses
from prefrep.nn.backbone import Backbone

ADAMW = adamw(1e-6)
SCHEDULE = Schedule("linear", 0.1)


class DirectAlignment(ComparingSteps, PolicyModule):
    """A policy that learns from pairs of given responses: DPO and its kin (arXiv 2305.18290).

    It reads `PreferenceData` as a preference model does: a prompt once for all its responses, soft labels, weights. Its log-odds are
    differences of implicit rewards. A loss that needs a reference gets log pi_0, which is measured once and kept on disk; there is no
    second model in memory during training.

    Args:
        backbone: Builds the policy. With LoRA, pi_0 is the base.
        loss: Builds the loss.
        across: What to do about pairs of responses to different prompts (arXiv 2404.00530). `refuse`: they are errors. `joint`: compare
            prompt and response together, log pi(x, y). `conditional`: compare log pi(y | x). For pairs with one prompt all are the same.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule.
        chunk: Number of tokens whose logits are in memory at a time.

    Raises:
        ConfigError: The backbone is frozen or sharded, parts exclude each other, or a value is out of range.
    """

    objective: AlignmentLoss

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        loss: Callable[[], AlignmentLoss] = DPOLoss,
        across: Across = "refuse",
        optimizer: OptimizerCallable = ADAMW,
        schedule: Schedule = SCHEDULE,
        chunk: int = 128,
    ) -> None:
        super().__init__(backbone, loss(), optimizer, schedule, chunk)
        if across != "refuse" and self.objective.unpaired:
            raise ConfigError(f"{type(self.objective).__name__} judges each response by itself; set across to refuse")
        self.across = across
        self.metrics = PairMetrics()

    # ---- what PreferenceData asks

    layout: Literal["single"] = "single"
    annotators: Annotators | None = None
    needs_prompt: ClassVar[bool] = False

    @property
    def unpaired(self) -> bool:
        """Whether the loss learns from labels of single responses, too."""
        return self.objective.unpaired

    @property
    def reading(self) -> PolicyReading:
        """How given responses are read."""
        return PolicyReading(self.across, self.objective.needs_divergence, self.objective.needs_reference)

    @contextmanager
    def initial_logprobs(self) -> Iterator[tuple[Backbone, Callable[[TreeBatch], Tensor]]]:
        """Replace the policy by pi_0 inside the context, in evaluation mode and without gradients; see `data.readers.GivenReader`."""
        mode = self.training
        try:
            with self.initial_policy() as initial, torch.no_grad(), self.trainer.precision_plugin.forward_context():
                self.eval()
                initial.eval()
                self.supports_trees()

                def read(batch: TreeBatch) -> Tensor:
                    there = batch.to(self.device)
                    return self.response_logprobs(there, self._surplus(there)).cpu()

                yield initial, read
        finally:
            self.release_initial_policy()
            self.train(mode)

    # ---- training

    def forward(self, batch: TreeBatch) -> Tensor:
        """Return the log-odds, in nats, that the first response of each pair wins: differences of implicit rewards [P]."""
        first, second, _ = self._responses(batch)
        return self._log_odds(first, second)

    def _log_odds(self, first: Responses, second: Responses) -> Tensor:
        return self.objective.reward(first) - torch.where(second.lengths > 0, self.objective.reward(second), 0.0)

    @staticmethod
    def _surplus(batch: TreeBatch) -> Tensor:
        if batch.surplus is None:
            raise DataError("the batch was not collated for a policy; train a DirectAlignment on PreferenceData")
        return batch.surplus

    def _responses(self, batch: TreeBatch) -> tuple[Responses, Responses, Tensor]:
        """Return the first and the second responses of the pairs, and the estimate of KL(pi, pi_0); `NOBODY` has no tokens."""
        logprobs, lengths = self.response_logprobs(batch, self._surplus(batch)), self.response_lengths(batch, self._surplus(batch))
        reference = torch.full_like(logprobs, torch.nan) if batch.reference is None else batch.reference
        divergence = logprobs.new_zeros(())
        if batch.mismatched is not None:
            divergence = self._divergence((logprobs.detach() - reference)[batch.mismatched], batch)

        def of(index: Tensor) -> Responses:
            there = [torch.cat([values, values.new_zeros(1)])[index] for values in (logprobs, reference, lengths)]  # `NOBODY` is the last
            return Responses(*there)

        first, second = batch.pairs.unbind(1)
        assert NOBODY == -1
        return of(first), of(second), divergence

    def _divergence(self, ratios: Tensor, batch: TreeBatch) -> Tensor:
        """Return the mean log-ratio of responses to other prompts, over all processes: an estimate of KL(pi, pi_0), cut at 0."""
        datum = torch.repeat_interleave(torch.arange(len(batch), device=ratios.device), batch.sizes[:, 1])  # of each pair
        counts = (torch.zeros_like(ratios).index_add(0, datum, batch.weight) > 0).to(ratios.dtype)  # those that fill up a batch do not
        total = torch.stack([(ratios * counts).sum(), counts.sum()])
        if self.trainer.world_size > 1:
            total = cast(Tensor, self.all_gather(total)).sum(0)
        return (total[0] / total[1].clamp_min(1)).clamp_min(0)

    def _pair_losses(self, first: Responses, second: Responses, divergence: Tensor, batch: TreeBatch) -> Tensor:
        """Return the loss of each pair [P]."""
        return self.objective(first, second, batch.probability, batch.margin, divergence)

    def _step(self, batch: TreeBatch, stage: Stage) -> Tensor:
        if not self.objective.takes_margin and bool((batch.margin != 0).any()):
            raise DataError(f"the data have margins, which {type(self.objective).__name__} does not read; use DPOLoss, or drop the column")
        first, second, divergence = self._responses(batch)
        losses = self._pair_losses(first, second, divergence, batch)
        loss = self.weighted_mean(losses, batch.weight)
        with torch.no_grad():
            better = batch.weight * batch.probability
            more = {
                "preferred_reward": self.weighted_mean(self.objective.reward(first), better),
                "preferred_logprob": self.weighted_mean(first.logprobs, better),
            }
            if batch.mismatched is not None:
                more["divergence"] = divergence
            self.metrics.record(self, stage, loss, losses, self._log_odds(first, second), batch, more)
        return loss
