"""Base class and helpers of the post-training callbacks."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from prefrep.callbacks.checkpoints import checkpoints_of
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line
from prefrep.disk import replace_text
from prefrep.errors import ConfigError
from prefrep.modules.gpo import GPO

log = logging.getLogger(__name__)


class RoundCallback(Callback, ABC):
    """Work at the start of a round, of which a resumed round does only the missing part.

    Lightning skips `on_train_epoch_start` when a run resumes within an epoch, so the work is also done in `on_train_start`.
    """

    _reported = -1

    def state_dict(self) -> dict[str, Any]:
        """Return the last reported round, so that a resumed run does not log it again."""
        return {"reported": self._reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last reported round."""
        self._reported = state_dict["reported"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the present round, whether or not the run is resumed."""
        self._act(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the round."""
        self._act(trainer, pl_module)

    def _act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = parts(trainer, pl_module, type(self).__name__)
        number = data.round_number
        if not trainer.should_stop and more_rounds(trainer, number):
            with reading(trainer, module):
                self.act(trainer, module, data, number)

    def fill(
        self,
        trainer: Trainer,
        data: PromptData,
        number: int,
        name: str,
        about: Mapping[str, Any],
        groups: Sequence[Sequence[int]],
        make: Callable[[Sequence[int]], Iterable[Line]],
        fresh: bool = True,
    ) -> None:
        """Run `Rounds.fill` on all ranks, each with its share, and wait for the complete table.

        Raises:
            Stopped: A signal asked the run to stop; the batches before it are on disk.
        """
        saver = checkpoints_of(trainer)
        data.rounds.fill(
            number, name, about, groups, make, rank=trainer.global_rank, world_size=trainer.world_size, fresh=fresh,
            begins=data.round_begins, stopping=lambda: saver is not None and saver.asked(trainer),
        )  # fmt: skip
        trainer.strategy.barrier()
        if saver is not None:
            saver.leave(trainer)

    def first_time(self, trainer: Trainer, number: int) -> bool:
        """Return whether to report a round: once per run, on rank 0."""
        first = self._reported < number and trainer.is_global_zero
        if first:
            self._reported = number
        return first

    @abstractmethod
    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Do the missing work of a round."""


def parts(trainer: Trainer, module: LightningModule, who: str) -> tuple[GPO, PromptData]:
    """Return the policy and its prompts.

    Raises:
        ConfigError: The run does not train a GPO policy on PromptData.
    """
    data = cast(Any, trainer).datamodule
    if not isinstance(module, GPO) or not isinstance(data, PromptData):
        raise ConfigError(f"{who} belongs to post-training: it needs the model GPO and the data PromptData")
    return module, data


def more_rounds(trainer: Trainer, number: int) -> bool:
    """Return whether a round is one of those that the run is to train."""
    return trainer.max_epochs in (None, -1) or number < trainer.max_epochs


@contextmanager
def reading(trainer: Trainer, module: GPO) -> Iterator[None]:
    """Put the policy in inference mode: evaluation mode, no gradients, the trainer's precision."""
    mode = module.training
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        module.release_initial_policy()
        module.train(mode)
        trainer.strategy.barrier()


def seed_of(*numbers: int) -> int:
    """Return a seed for a combination of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def report(trainer: Trainer, data: PromptData, number: int, values: Mapping[str, float], texts: Mapping[str, str] | None = None) -> None:
    """Log the metrics of a round as `round/...` and in `metrics.json` of the round's folder; texts go to TensorBoard."""
    if not trainer.is_global_zero:
        return
    file = data.rounds.folder(number) / "metrics.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    replace_text(file, json.dumps({**known, **values}, indent=1, sort_keys=True) + "\n")
    for logger in trainer.loggers:
        logger.log_metrics({f"round/{name}": value for name, value in values.items()}, step=trainer.global_step)
        if isinstance(logger, TensorBoardLogger):
            for name, content in (texts or {}).items():
                logger.experiment.add_text(f"round/{name}", content, trainer.global_step)
    log.info("round %d: %s", number, ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
