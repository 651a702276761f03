"""The steps of modules that compare: one computation for every stage."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from prefrep.data.trees import TreeBatch
from prefrep.modules.pair_metrics import Stage


class ComparingSteps:
    """Lightning's steps of a module whose batches are pairs: a loss with metrics per stage, and log-odds as predictions.

    It stands before the module among the bases, since its steps replace those of `LightningModule`. It is no `ABC` itself (the module's
    metaclass sees to the abstract method): `fully_shard` gives a module another class, which Python refuses when its first base goes
    back to a class with slots, as `ABC` is.
    """

    __call__: Any

    @abstractmethod
    def _step(self, batch: TreeBatch, stage: Stage) -> Tensor:
        """Return the loss of a batch and update the metrics of a stage."""

    def training_loss(self, batch: TreeBatch) -> Tensor:
        """Return the loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: TreeBatch) -> None:
        """Update loss, accuracy and mean probability."""
        self._step(batch, "val")

    def test_step(self, batch: TreeBatch) -> None:
        """Update loss, accuracy and mean probability."""
        self._step(batch, "test")

    def predict_step(self, batch: TreeBatch) -> Tensor:
        """Return the log-odds of each pair, in nats [P]."""
        log_odds: Tensor = self(batch)
        return log_odds
