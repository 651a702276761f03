"""What the callbacks of post-training share: when they act, in which state of the model, and where their numbers go."""

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
    """Acts when a round begins; within a resumed round it finds its work done.

    Lightning leaves `on_train_epoch_start` out when a run goes on in the middle of an epoch, or right after the last batch of one: hence
    `on_train_start` too.
    """

    _reported = -1

    def state_dict(self) -> dict[str, Any]:
        """Which round was reported last: a resumed run does not log it again."""
        return {"reported": self._reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it over from a checkpoint."""
        self._reported = state_dict["reported"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Acts at the beginning of a run, resumed or not."""
        self._act(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Acts at the beginning of a round."""
        self._act(trainer, pl_module)

    def _act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = parts(trainer, pl_module, type(self).__name__)
        number = data.round_number
        if trainer.max_epochs in (None, -1) or number < trainer.max_epochs:
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
        """`Rounds.fill` by all processes together: each makes its share, and all of it is there afterwards."""
        saver = checkpoints_of(trainer)
        data.rounds.fill(
            number, name, about, groups, make, rank=trainer.global_rank, world_size=trainer.world_size, fresh=fresh,
            begins=data.round_begins, stopping=lambda: saver is not None and saver.asked(trainer),
        )  # fmt: skip
        trainer.strategy.barrier()
        if saver is not None:
            saver.leave(trainer)

    def first_time(self, trainer: Trainer, number: int) -> bool:
        """Whether a round is to be reported: once in a run, by one process."""
        first = self._reported < number and trainer.is_global_zero
        if first:
            self._reported = number
        return first

    @abstractmethod
    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Makes what the round still lacks."""


def parts(trainer: Trainer, module: LightningModule, who: str) -> tuple[GPO, PromptData]:
    """The policy and its prompts. Raises ConfigError: the run is about something else."""
    data = cast(Any, trainer).datamodule
    if not isinstance(module, GPO) or not isinstance(data, PromptData):
        raise ConfigError(f"{who} belongs to post-training: it needs the model GPO and the data PromptData")
    return module, data


@contextmanager
def reading(trainer: Trainer, module: GPO) -> Iterator[None]:
    """The policy as something that is only read: evaluation mode, no gradients, the trainer's precision."""
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
    """A seed for each combination of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def report(trainer: Trainer, data: PromptData, number: int, values: Mapping[str, float], texts: Mapping[str, str] | None = None) -> None:
    """Numbers of a round: `round/...` of every logger, and `metrics.json` in the round's folder; texts go to TensorBoard."""
    if not trainer.is_global_zero:
        return
    file = data.rounds.folder(number) / "metrics.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    replace_text(file, json.dumps({**known, **values}, indent=1) + "\n")
    for logger in trainer.loggers:
        logger.log_metrics({f"round/{name}": value for name, value in values.items()}, step=trainer.global_step)
        if isinstance(logger, TensorBoardLogger):
            for name, content in (texts or {}).items():
                logger.experiment.add_text(f"round/{name}", content, trainer.global_step)
    log.info("round %d: %s", number, ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
