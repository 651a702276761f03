"""An end of a round's training once the policy is far enough from the one that sampled."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from prefrep.callbacks.rounds import parts, report
from prefrep.callbacks.sampling import SampleResponses
from prefrep.errors import ConfigError
from prefrep.functional.gpo import Judged


class KLBudget(Callback):
    """Ends the training of a round when the estimate of KL(pi_t, pi) of an optimizer step exceeds a budget.

    The responses of a round come from pi_t, and say less about a policy the further it is from pi_t. The other batches of the round pass
    without a step, so that rounds keep their length and a run that is killed resumes exactly; the next round samples from the policy as it
    is. `rounds/t/metrics.json` gets `budget_batches`, the number of batches that were trained on, and the estimate, `budget_kl`.

    Args:
        kl: The budget, nats per response. The estimate is `train/kl_reference`, averaged over the batches of an optimizer step.

    Raises:
        ConfigError: The budget is not positive.
    """

    def __init__(self, kl: float) -> None:
        if not kl > 0:
            raise ConfigError(f"KLBudget.kl must be positive, got {kl}")
        self.kl = kl
        self._spent = -1  # the last round whose budget is spent
        self._round = -1
        self._estimates: list[float] = []  # of the batches since the last optimizer step

    def state_dict(self) -> dict[str, Any]:
        """Return the round whose budget is spent, where a resumed run must rest too."""
        return {"spent": self._spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._spent = state_dict["spent"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a round is sampled that the loss reads all responses, since the best and the worst are no sample of pi_t.

        Raises:
            ConfigError: It does not.
        """
        module, _ = parts(trainer, pl_module, type(self).__name__)
        callbacks = cast(Any, trainer).callbacks
        count = next((each.responses for each in callbacks if isinstance(each, SampleResponses)), 3)
        blank, table = torch.zeros(1, count), torch.zeros(1, count, count)
        judged = Judged(table, torch.zeros(1, count, 1), blank, blank, torch.ones(1, count))
        if module.selected(judged).shape[-1] < count:
            raise ConfigError(
                f"KLBudget estimates KL from all {count} responses, and {type(module.objective).__name__} reads some of them; choose an "
                "objective that reads all, such as GPOObjective with select: all, or remove the callback"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let batches of a round whose budget is spent pass."""
        module, data = parts(trainer, pl_module, type(self).__name__)
        self._round = data.round_number
        module.resting = self._round == self._spent

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Compare the estimate of an optimizer step with the budget."""
        module, data = parts(trainer, pl_module, type(self).__name__)
        if module.resting:
            return
        self._estimates.append(float(trainer.callback_metrics["train/kl_reference"]))  # the same in all processes
        if cast(Any, trainer).fit_loop.epoch_loop._should_accumulate():
            return
        estimate, self._estimates = sum(self._estimates) / len(self._estimates), []
        if estimate > self.kl:
            self._spent = self._round
            report(trainer, data, self._round, {"budget_batches": batch_idx + 1, "budget_kl": estimate})
