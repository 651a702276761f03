"""The progress line of training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

# What the line shows of the logged metrics, in this order, and how it calls them.
SHOWN = {
    "train/loss": "loss",
    "train/accuracy": "acc",
    "train/kl_reference": "kl",
    "val/loss": "val loss",
    "val/accuracy": "val acc",
    "train/tokens_per_s": "tok/s",
}
LINE = "{desc} {n_fmt}/{total_fmt} {remaining} left {postfix}"


class ProgressLine(TQDMProgressBar):
    """Lightning's progress bar as one line of 80 columns: step, time left, loss, accuracy and tokens per second."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics of `SHOWN` that were logged so far, formatted."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name in SHOWN}
        return {short: f"{found[name]:.0f}" if short == "tok/s" else f"{found[name]:.3f}" for name, short in SHOWN.items() if name in found}

    def init_train_tqdm(self) -> Tqdm:
        """Return the training bar."""
        return self._plain(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Tqdm:
        """Return the validation bar."""
        return self._plain(super().init_validation_tqdm())

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name the epoch of all epochs."""
        super().on_train_epoch_start(trainer, *_)
        last = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}{last}")

    @staticmethod
    def _plain(bar: Tqdm) -> Tqdm:
        bar.bar_format, bar.ncols, bar.dynamic_ncols = LINE, 80, False
        return bar
