"""Checkpoints for resuming: when they are written, how they replace each other, and how a run stops when a signal asks it to."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from prefrep.disk import replace_path
from prefrep.errors import ConfigError, Stopped
from prefrep.room import require, saving
from prefrep.signals import StopSignals

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Checkpoints at the end of optimizer steps: `last.ckpt` to resume from, and `best-stepN.ckpt` with the best validation metric.

    `last.ckpt` is written when one of the intervals is over, when a signal asks the run to stop, and when training ends. Where validation
    follows the step, or the end of an epoch, it waits for them, so that a resumed run repeats neither. A file replaces its predecessor in
    one step. A run resumed from it ends with the same bytes as an undisturbed one (`modules.resuming`).

    The first SIGTERM, SIGINT or SIGUSR1 ends the present optimizer step, or the present batch of sampling or validation, writes
    `last.ckpt` and raises `Stopped`. The second one kills the process. Under SLURM with automatic requeueing, SIGUSR1 has Lightning
    requeue the job.

    Args:
        dirpath: Folder of the checkpoints; null: below the logger's folder, as in Lightning.
        monitor: Validation metric that decides which checkpoint is the best; null: none is kept beside the last.
        mode: Whether less or more is better.
        train_time_interval: Time between two saves.
        every_n_train_steps: Optimizer steps between two saves.
        every_n_epochs: Epochs, which are rounds in post-training, between two saves.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        train_time_interval: timedelta | None = None,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
    ) -> None:
        if any(number is not None and number < 1 for number in (every_n_train_steps, every_n_epochs)):
            raise ConfigError(f"every_n_train_steps and every_n_epochs must be 1 or more, got {every_n_train_steps} and {every_n_epochs}")
        super().__init__(
            dirpath=dirpath, filename="best-step{step}", monitor=monitor, mode=mode, auto_insert_metric_name=False, save_last=True,
            save_top_k=1 if monitor else 0, enable_version_counter=False,
        )  # fmt: skip
        self._interval, self._steps, self._epochs = train_time_interval, every_n_train_steps, every_n_epochs
        self._due = False
        self._saved = (0, 0)  # steps and epochs in last.ckpt: nothing has to be saved before the first step
        self._signals: StopSignals | None = None

    @property
    def state_key(self) -> str:
        """One key whatever the intervals are, so that a resumed run may change them."""
        return f"Checkpoints({self.monitor}, {self.mode})"

    # ---- when

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what `last.ckpt` holds: Lightning 2.6.6 does not, and saves its step again in the middle of the next one."""
        if trainer.ckpt_path and Path(trainer.ckpt_path).resolve() == self._last.resolve():
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            self._saved = checkpoint["global_step"], epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, listen to signals, and check that there is room for a checkpoint.

        Raises:
            PrefrepError: The disk cannot hold trained weights and two moments of each beside the checkpoint that they replace.
        """
        trained = sum(each.numel() * each.element_size() for each in pl_module.parameters() if each.requires_grad)
        if trainer.is_global_zero and not self._idle(trainer):
            require(self._last, 3 * trained, "a checkpoint", "train fewer weights (Backbone.lora)")
        self._last_time_checked = time.monotonic()
        self._listen(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save at the end of an optimizer step, unless validation or the end of the epoch follow."""
        run = cast(Any, trainer)
        loop = run.fit_loop.epoch_loop
        if loop._should_accumulate() or self._idle(trainer):
            return
        self._due = self._due or self._interval_over(trainer)
        if loop.global_step != loop.max_steps:  # after the last step all that is left is to finish
            self.leave(trainer)
        if self._due and not loop._num_ready_batches_reached() and not loop._should_check_val_fx(run.fit_loop._data_fetcher):
            self._save(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop within a validation: a resumed run begins it anew."""
        if not self._idle(trainer):
            self.leave(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best weights, and save the last unless the end of the epoch follows."""
        if self._idle(trainer):
            return
        loop, candidates = cast(Any, trainer).fit_loop.epoch_loop, self._monitor_candidates(trainer)
        if self.monitor in candidates:
            best = self.best_model_path
            self._save_topk_checkpoint(trainer, candidates)
            self._due = self._due or best != self.best_model_path
        if self._due and not loop._num_ready_batches_reached() and not loop._should_accumulate():
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        if self._idle(trainer):
            return
        self._due = self._due or (self._epochs is not None and (trainer.current_epoch + 1) % self._epochs == 0)
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of training."""
        if not self._idle(trainer) and self._saved != _position(trainer):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._close()

    def _idle(self, trainer: Trainer) -> bool:
        return bool(cast(Any, trainer).fast_dev_run) or trainer.state.fn != "fit" or trainer.sanity_checking

    def _interval_over(self, trainer: Trainer) -> bool:
        if self._steps is not None and trainer.global_step % self._steps == 0:
            return True
        if self._interval is None:
            return False
        waited = time.monotonic() - (self._last_time_checked or 0.0)
        return trainer.strategy.reduce_boolean_decision(waited >= self._interval.total_seconds(), all=False)  # clocks differ

    # ---- how

    @property
    def _last(self) -> Path:
        return Path(self.dirpath or "") / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

    def _save(self, trainer: Trainer) -> None:
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._due, self._saved, self._last_time_checked = False, _position(trainer), time.monotonic()

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Write a checkpoint whole or not at all.

        Lightning 2.6.6 moves a file from the temporary folder, which copies between disks, and passes over a folder that is closed.
        """
        place = Path(filepath)
        draft = place.with_name(f"draft{self.FILE_EXTENSION}")
        try:
            with saving(place, place.stat().st_size if place.is_file() else None):
                if trainer.is_global_zero and draft.is_file():  # of a killed process
                    draft.unlink()
                trainer.save_checkpoint(draft, self.save_weights_only)
                if trainer.is_global_zero:
                    if not draft.exists():
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(draft))
                    replace_path(draft, place)
        except OSError:  # a part of a file, whose room may be needed
            if draft.is_file():
                draft.unlink()
            raise
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)
        trainer.strategy.barrier()
        self._last_checkpoint_saved = filepath

    # ---- stopping

    def asked(self, trainer: Trainer) -> bool:
        """Return whether a signal has asked this process to stop; from the first call on signals are noted."""
        self._listen(trainer)
        return self._signals is not None and self._signals.received is not None

    def leave(self, trainer: Trainer) -> None:
        """Stop the run where any process was asked to. All processes must call it at the same point.

        Raises:
            Stopped: `last.ckpt` holds all that was trained.
        """
        if not trainer.strategy.reduce_boolean_decision(self.asked(trainer), all=False):
            return
        received = self._signals.received if self._signals is not None else None
        number = received or signal.SIGTERM  # another process got it
        if self._saved != _position(trainer):
            self._save(trainer)
        if number == signal.SIGUSR1:
            self._requeue(trainer)
        if not trainer.is_global_zero:
            raise Stopped("", 0)  # Lightning kills the others when one of its children fails
        step, again = trainer.global_step, "to go on, run the same command"
        where = f"at step {step}; {again} with --ckpt_path last ({self._last})" if step else f"before the first step; {again}"
        raise Stopped(f"stopped by {number.name} {where}", 128 + number)

    def _listen(self, trainer: Trainer) -> None:
        if self._signals is None:
            launcher = trainer.strategy.launcher

            def forward(number: int, again: bool) -> None:
                if launcher is not None and (again or number != signal.SIGINT):  # a terminal interrupts children itself
                    launcher.kill(signal.SIGKILL if again else signal.Signals(number))

            self._signals = StopSignals(forward, kill=trainer.is_global_zero)
        self._signals.listen()

    def _requeue(self, trainer: Trainer) -> None:
        """Have Lightning save its own checkpoint and requeue the job, as it does in its handler of the signal."""
        environment = cast(Any, trainer)._accelerator_connector.cluster_environment
        if self._signals is not None and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            handler = self._signals.before(signal.SIGUSR1)
            if callable(handler):
                handler(signal.SIGUSR1, None)

    def _close(self) -> None:
        if self._signals is not None:
            self._signals.close()
            self._signals = None


def _position(trainer: Trainer) -> tuple[int, int]:
    """Return the numbers of optimizer steps and of epochs that are over."""
    return trainer.global_step, int(cast(Any, trainer).fit_loop.epoch_progress.current.processed)


def checkpoints_of(trainer: Trainer) -> Checkpoints | None:
    """Return the trainer's `Checkpoints`, if it has one."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints)), None)
