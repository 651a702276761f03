"""The progress line of training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

Shown = dict[str, int | str | float | dict[str, float]]

EVERY = 10  # steps between looks at the logged numbers: each waits for a GPU
LINE = "{desc}{n_fmt}/{total_fmt} left {remaining}{postfix}"


class ProgressLine(TQDMProgressBar):
    """Lightning's progress bar as one line of 80 columns: step, time left, loss, accuracy and tokens per second."""

    _shown: Shown | None = None

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Shown:
        """Return loss, accuracy or a policy's KL divergence in nats, tokens per second, and validation loss/accuracy."""
        if self._shown and trainer.global_step % EVERY and str(trainer.strategy.root_device).startswith("cuda"):
            return self._shown
        logged = trainer.callback_metrics

        def shown(name: str, digits: int) -> str:
            return f"{float(logged[name]):.{digits}f}" if name in logged else ""

        found = {
            "loss": shown("train/loss", 3),
            "acc": shown("train/accuracy", 2),
            "kl": shown("train/kl_reference", 2),
            "tok/s": shown("train/tokens_per_s", 0),
            "val": "/".join(filter(None, (shown("val/loss", 3), shown("val/accuracy", 2)))),
        }
        self._shown = {name: value for name, value in found.items() if value}
        return self._shown

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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the metrics of the validation at once."""
        self._shown = None
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last numbers of the epoch on the screen."""
        self._shown = None
        super().on_train_epoch_end(trainer, pl_module)

    @staticmethod
    def _plain(bar: Tqdm) -> Tqdm:
        bar.bar_format, bar.ncols, bar.dynamic_ncols = LINE, 80, False
        return bar
