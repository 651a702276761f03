"""General preference optimization: a policy trains on comparisons of its own responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from prefrep.data.round_batch import RoundBatch
from prefrep.errors import CheckpointError
from prefrep.functional.gpo import Judged, divergences
from prefrep.modules.base import Schedule
from prefrep.modules.policy import PolicyModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.objectives import GPOObjective, PolicyObjective

# The paper's recipe for policies (official scripts): RMSProp, 5e-7, linear with a tenth of warm-up.
RMSPROP: OptimizerCallable = partial(torch.optim.RMSprop, lr=5e-7)
SCHEDULE = Schedule("linear", 0.1)


class GPO(PolicyModule):
    """A policy that is regressed on preference scores of its own responses, round after round (arXiv 2410.02197, section 5).

    An epoch is a round t. Callbacks sample K responses to each prompt from the current policy (pi_t), record their log-probabilities and
    judge them; the steps of the epoch move the policy (pi) away from pi_t under the objective. There is no second model in memory: only
    those log-probabilities need pi_t. A step reads only the responses in its loss: with `best_worst` two of the K, whose scores are still
    means over all. The schedule restarts in every round; the moments of the optimizer carry over.

    Args:
        backbone: Builds the policy. With LoRA, pi_0 is the base.
        objective: Builds the objective.
        optimizer: Builds the optimizer from the trainable parameters.
        schedule: Learning-rate schedule of one round.
        chunk: Number of tokens whose logits are in memory at a time.

    Raises:
        ConfigError: The backbone is frozen or sharded, or a value is out of range.
    """

    objective: PolicyObjective

    def __init__(
        self,
        backbone: Callable[[], Backbone] = Backbone,
        objective: Callable[[], PolicyObjective] = GPOObjective,
        optimizer: OptimizerCallable = RMSPROP,
        schedule: Schedule = SCHEDULE,
        chunk: int = 128,
    ) -> None:
        super().__init__(backbone, objective(), optimizer, schedule, chunk)

    @property
    def schedule_per_epoch(self) -> bool:
        """True: each round has a schedule of its own."""
        return True

    # ---- training

    def training_loss(self, batch: RoundBatch) -> Tensor:
        """Return the loss of a batch."""
        selected, judged = batch.selected, batch.judged
        logprobs = self.response_logprobs(batch.trees, batch.surplus).view_as(selected)
        losses = self.objective(logprobs, judged, selected)
        loss = self.weighted_mean(losses, batch.weight)
        with torch.no_grad():
            ratios, targets = logprobs - batch.reference.gather(-1, selected), self.objective.targets(judged).gather(-1, selected)
            moved = (ratios - ratios.mean(-1, keepdim=True)) * (targets - targets.mean(-1, keepdim=True))
            values = {
                "loss": loss,
                "target_size": self.weighted_mean(targets.abs().mean(-1), batch.weight),
                "ratio_spread": self.weighted_mean(ratios.std(-1), batch.weight),
                "agreement": self.weighted_mean((moved.mean(-1) > 0).float(), batch.weight),
            }
            if selected.shape == batch.reference.shape:
                # y ~ pi_t: at temperature 1 and top_p 1 this mean is unbiased for KL(pi_t, pi). The best and the worst alone are no sample
                # of pi_t. Log-probabilities are those of the encoded text, whose tokens now and then differ from the sampled ones.
                values["kl_reference"] = self.weighted_mean(divergences(ratios).mean(-1), batch.weight)
            if not batch.initial.isnan().any():
                values["log_ratio_initial"] = self.weighted_mean((logprobs - batch.initial.gather(-1, selected)).mean(-1), batch.weight)
        for name, value in values.items():
            self.log(f"train/{name}", value, batch_size=len(batch), prog_bar=name in ("loss", "kl_reference"), sync_dist=True)
        return loss

    def selected(self, judged: Judged) -> Tensor:
        """Return the indices of the judged responses in the loss [N, S]; batches hold no others."""
        return self.objective.selected(judged)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store objective and size of a round beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["round"] = self._round()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the objective and the size of a round have not changed: the number of finished batches tells the number of the round.

        Raises:
            CheckpointError: The checkpoint has another objective or other rounds.
        """
        super().on_load_checkpoint(checkpoint)
        if (before := checkpoint.get("round")) is not None and before != self._round():
            raise CheckpointError(
                f"the checkpoint was made with rounds of {before}, and this run has {self._round()}; resume with its prompts, "
                "--data.batch_size, --data.round_size and --trainer.limit_train_batches, or set another --trainer.default_root_dir"
            )

    def _round(self) -> str:
        prompts = getattr(cast(Any, self.trainer).datamodule, "batch_size", None)
        return f"{self.batches_per_epoch()} batches of {prompts} prompts"
