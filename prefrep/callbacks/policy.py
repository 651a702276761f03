"""Export of a trained policy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from prefrep.data.prompts import PromptData
from prefrep.errors import ConfigError
from prefrep.io import policy
from prefrep.io.replacing import check_free
from prefrep.modules.policy import PolicyModule
from prefrep.parts import recipe as recipe_of
from prefrep.room import require

log = logging.getLogger(__name__)


class ExportPolicy(Callback):
    """Export of the policy as a Hugging Face folder when training ends; of a mixture, a folder for each type: `export-type-0`, ...

    Args:
        path: The folder; if empty, `export` in the trainer's default_root_dir.
        weights: `merged`: the whole model. `adapter`: the LoRA weights and the path of their base model.
    """

    def __init__(self, path: str = "", weights: policy.PolicyWeights = "merged") -> None:
        self.path, self.weights = path, weights

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before training that the policy can be exported.

        Raises:
            ConfigError: `weights` is `adapter` without LoRA, a quantized base would have to be merged, the objective has no recipe,
                or the run trains no policy.
            CheckpointError: The target folder exists and does not hold an exported model.
        """
        module = self._policy(pl_module)
        policy.check(module.backbone, self.weights)
        recipe_of(module.objective)
        for name in module.policies():
            check_free(_folder(self._target(trainer), name))
        if trainer.is_global_zero and not cast(Any, trainer).fast_dev_run:
            kept = [each for each in module.backbone.parameters() if each.requires_grad or self.weights == "merged"]
            needs = sum(each.numel() * each.element_size() for each in kept)
            require(self._target(trainer), needs, "the exported policy", "set ExportPolicy.weights to adapter")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if cast(Any, trainer).fast_dev_run or trainer.interrupted or not trainer.is_global_zero:
            return
        module, data, target = self._policy(pl_module), cast(Any, trainer).datamodule, self._target(trainer)
        recipe = {"module": type(module).__name__, "objective": recipe_of(module.objective), "step": trainer.global_step}
        if isinstance(data, PromptData):
            recipe["rounds"] = data.round_number
        if data.encode_config.context:
            recipe["context"] = data.encode_config.context
        for name, backbone in module.policies().items():
            folder = _folder(target, name)
            policy.save(folder, backbone, module.tokenizer, recipe | module.described(), self.weights)
            log.info("exported the policy to %s", folder)

    def _policy(self, module: LightningModule) -> PolicyModule:
        if not isinstance(module, PolicyModule):
            raise ConfigError(f"{type(self).__name__} exports policies, and this is a {type(module).__name__}; use the callback Export")
        return module

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "export")


def _folder(target: Path, name: str) -> Path:
    return target.with_name(f"{target.name}-{name}") if name else target
