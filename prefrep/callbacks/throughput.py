"""Training throughput."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from prefrep.data.trees import TreeBatch


class Throughput(Callback):
    """Distinct tokens and prompts per second of training, logged over the steps since the last log."""

    def __init__(self) -> None:
        self._tokens = self._prompts = 0
        self._since: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: TreeBatch, batch_idx: int) -> None:
        """Start the clock at the first batch after a pause."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TreeBatch, batch_idx: int) -> None:
        """Count a batch that was trained on, and log at logging steps."""
        if getattr(pl_module, "resting", False):
            return
        self._tokens += batch.tokens
        self._prompts += len(batch)
        if (batch_idx + 1) % (trainer.accumulate_grad_batches * cast(Any, trainer).log_every_n_steps) == 0 and self._since is not None:
            seconds = time.perf_counter() - self._since
            rates = {"train/tokens_per_s": self._tokens / seconds, "train/prompts_per_s": self._prompts / seconds}
            pl_module.log_dict(rates, batch_size=1, reduce_fx="sum", sync_dist=True)
            self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: validation is not training."""
        self._restart()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: work between two rounds is not training."""
        self._restart()

    def _restart(self) -> None:
        self._tokens = self._prompts = 0
        self._since = None
