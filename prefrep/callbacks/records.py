"""Metrics as lines that any program reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from prefrep.disk import replace_text


class MetricsFile(Callback):
    """Appends what was logged to `metrics.jsonl`: a line {"step", "epoch", name: value, ...} at every logging step and validation.

    What a module says of a batch (`train/loss`, `train/accuracy` and the like) is of the last batch before the line: with
    `accumulate_grad_batches` above 1 that is a part of the step, not its mean. `train/grad_norm` and `lr` are of the whole step.

    A resumed run goes on in the same file; lines of steps after the checkpoint are dropped first, since they are made again.

    Args:
        path: The file; empty: `metrics.jsonl` under the trainer's default_root_dir.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._stepped = 0
        self._rate = 0.0

    def _file(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "metrics.jsonl")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a new file, or keeps the lines up to the checkpoint that is resumed, whose step is known from here on."""
        self._stepped = trainer.global_step
        if not trainer.is_global_zero:
            return
        file = self._file(trainer)
        kept = []
        if trainer.global_step > 0 and file.exists():
            for line in file.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= trainer.global_step:
                        kept.append(line)
                except ValueError:  # the last line of a killed run
                    break
        replace_text(file, "".join(f"{line}\n" for line in kept))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes the learning rate of the step; the schedule moves on before the batch ends."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes the training metrics of a logging step."""
        if self._stepped < trainer.global_step and trainer.global_step % cast(Any, trainer).log_every_n_steps == 0:
            self._write(trainer, "train/")
        self._stepped = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the validation metrics."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer, "val/")

    def _write(self, trainer: Trainer, prefix: str) -> None:
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if prefix == "train/":
            values["lr"] = self._rate
        with self._file(trainer).open("a") as out:
            out.write(json.dumps({"step": trainer.global_step, "epoch": trainer.current_epoch, **values}) + "\n")
