"""The policy that a run leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from prefrep.callbacks.rounds import parts
from prefrep.io import policy
from prefrep.io.replacing import check_free
from prefrep.parts import recipe as recipe_of

log = logging.getLogger(__name__)


class ExportPolicy(Callback):
    """Writes the policy as a Hugging Face folder when training ends.

    Args:
        path: The folder; empty: `export` under the trainer's default_root_dir.
        weights: `merged`: the whole model. `adapter`: the LoRA weights beside the path of their base.
    """

    def __init__(self, path: str = "", weights: policy.PolicyWeights = "merged") -> None:
        self.path, self.weights = path, weights

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses, before and not after training, what could not be exported.

        Raises:
            ConfigError: An adapter is asked for and there is none, or a quantised base would have to be merged.
            CheckpointError: Something that is not a model is where the folder shall be.
        """
        module, _ = parts(trainer, pl_module, type(self).__name__)
        policy.check(module.backbone, self.weights)
        check_free(self._target(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder."""
        module, data = parts(trainer, pl_module, type(self).__name__)
        if cast(Any, trainer).fast_dev_run or trainer.interrupted or not trainer.is_global_zero:
            return
        target = self._target(trainer)
        objective = recipe_of(module.objective)
        recipe = {"module": type(module).__name__, "objective": objective, "step": trainer.global_step, "rounds": data.round_number}
        policy.save(target, module.backbone, module.tokenizer, recipe, self.weights)
        log.info("exported the policy to %s", target)

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "export")
