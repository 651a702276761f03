"""Where Lightning's loops stand after a resume."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import Trainer


def settle_loops(trainer: Trainer) -> None:
    """Put the loops of a resumed run where those of an undisturbed run would be. Belongs into `on_train_start`.

    Every epoch has equally many batches, so the number of batches that were trained on determines the position. Lightning 2.6.6 derives it
    from counters that do not always agree (all of this observed):

    * Accumulated gradients are in no checkpoint. A run resumed from within an optimizer step goes on behind batches whose gradients are
      lost. Here those batches are trained again.
    * After a resume at an epoch's beginning or from its last batch, `epoch_progress.current.ready` and `started` stay one behind. A
      checkpoint of that epoch then looks like one of the end of the epoch before, and the next resume skips `on_train_epoch_start`.
    * With `max_steps`, the end of an epoch that was saved at its end runs a second time.
    * A validation that was due when the checkpoint was saved, or that was interrupted, is skipped.

    Args:
        trainer: In its `on_train_start`: the loops are loaded and reset, and no batch was fetched.
    """
    fit: Any = cast(Any, trainer).fit_loop
    size = trainer.num_training_batches
    if not fit.is_resuming or not isinstance(size, int) or size < 1:
        return
    loop, epochs, batches, val = fit.epoch_loop, fit.epoch_progress, fit.epoch_loop.batch_progress, fit.epoch_loop.val_loop
    done, saved_within_batch = batches.total.processed, batches.total.completed < batches.total.processed
    saved_within_step = loop._should_accumulate()
    if saved_within_step:
        done -= batches.current.processed % trainer.accumulate_grad_batches
    epoch, position = divmod(done, size)
    validation_interrupted = val.batch_progress.total.completed < val.batch_progress.total.processed
    if (
        not position
        and not saved_within_step
        and done
        and (saved_within_batch or validation_interrupted or epochs.current.processed < epoch)
    ):
        epoch, position = epoch - 1, size
    epoch_ended = position > 0 and epochs.current.processed > epoch and not saved_within_batch
    for progress in (epochs.total, epochs.current):
        _set(progress, epoch + (position > 0), epoch)
    _set(batches.total, done, done)
    val.batch_progress.reset()
    fit._restarting = loop.restarting = position > 0
    fit.reset_restart_stage()
    loop.update_restart_stage()  # the last batch is over, and so is its validation
    if not position:
        loop.reset_restart_stage()
        return
    _set(batches.current, position, position)
    fit._restart_stage = "restarted_mid_epoch"
    if saved_within_step or epoch_ended:  # all that belongs to the last batch was done
        _within_batch(loop, batches)
        loop._batches_that_stepped -= 1
    elif saved_within_batch or validation_interrupted:
        if loop._should_check_val_fx(fit._data_fetcher):
            val._restart_stage = "restarted_mid_evaluation"
        elif position < size:
            _within_batch(loop, batches)
        else:
            val._has_run = True
            loop._batches_that_stepped += 1


def end_epoch(trainer: Trainer) -> None:
    """Let the next epoch begin with its first batch. Belongs into `on_train_epoch_end`.

    Where a resumed run had only the end of an epoch before it, no batch told Lightning's loop that the resume is over.
    """
    cast(Any, trainer).fit_loop.epoch_loop.restarting = False


def _set(progress: Any, begun: int, ended: int) -> None:
    progress.ready = progress.started = begun
    progress.processed = progress.completed = ended


def _within_batch(loop: Any, batches: Any) -> None:
    """Let the loop go on with the next batch; `_TrainingEpochLoop.reset` counts the one before as completed and as an optimizer step."""
    batches.total.completed -= 1
    batches.current.completed -= 1
    loop.update_restart_stage()
