"""Metrics as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from prefrep.disk import replace_text
from prefrep.room import saving


class MetricsFile(Callback):
    """Logged metrics as lines {"step", "epoch", name: value, ...} of `metrics.jsonl`, at every logging step and validation.

    Batch metrics (`train/loss`, `train/accuracy`, ...) are those of the step's last batch: under gradient accumulation they are not means
    over the step. `train/grad_norm` and `lr` belong to the whole step.

    A resumed run appends to the same file, after dropping the lines of steps behind its checkpoint.

    Args:
        path: The file; if empty, `metrics.jsonl` in the trainer's default_root_dir.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._stepped = 0
        self._rate = 0.0
        self._validated: set[int] = set()  # steps whose validation was written before a resume

    def _file(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "metrics.jsonl")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new file, or drop the lines behind the resumed checkpoint, whose step is known from this hook on."""
        self._stepped, self._validated = trainer.global_step, set()
        if not trainer.is_global_zero:
            return
        file = self._file(trainer)
        kept: list[str] = []
        if trainer.global_step > 0 and file.exists():
            for line in file.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    behind = entry["step"] >= trainer.global_step if "changed" in entry else entry["step"] > trainer.global_step
                    if not behind:
                        kept.append(line)
                        self._validated |= {entry["step"]} if entry.keys().isdisjoint({"lr", "changed"}) else set()
                except ValueError:  # the truncated last line of a killed run
                    break
        replace_text(file, "".join(f"{line}\n" for line in kept))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Store the learning rate of the step, since the scheduler steps before `on_train_batch_end`."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the training metrics of a logging step."""
        due = self._stepped < trainer.global_step and trainer.global_step % cast(Any, trainer).log_every_n_steps == 0
        if due and not getattr(pl_module, "resting", False):  # else the metrics are those of the last batch that was trained on
            self._write(trainer, "train/")
        self._stepped = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation metrics, unless a resumed run repeats a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step not in self._validated:
            self._write(trainer, "val/")

    def note(self, trainer: Trainer, changed: Mapping[str, Any]) -> None:
        """Write a line {"step", "epoch", "changed"}: settings that differ from here on, as {name: [old, new]}."""
        if trainer.is_global_zero:
            self._append(trainer, {"changed": changed})

    def _write(self, trainer: Trainer, prefix: str) -> None:
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if prefix == "train/":
            values["lr"] = self._rate
        self._append(trainer, values)

    def _append(self, trainer: Trainer, values: Mapping[str, Any]) -> None:
        with saving(self._file(trainer)), self._file(trainer).open("a") as out:
            out.write(json.dumps({"step": trainer.global_step, "epoch": trainer.current_epoch, **values}) + "\n")
