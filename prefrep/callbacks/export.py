"""The folder that a run leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch import nn

from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.io import folder
from prefrep.io.replacing import check_free
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.sharding import class_name, is_sharded, whole_state
from prefrep.parts import recipe as recipe_of

log = logging.getLogger(__name__)


class Export(Callback):
    """Writes the exported folder when training ends.

    Args:
        path: The folder; empty: `export` under the trainer's default_root_dir.
        which: `best`: the weights of the best checkpoint, where one was kept by a validation metric, else the last. `last`: the final
            weights.
        weights: `full`: the whole language model. `reference`: what was trained, beside the path of the base.
    """

    def __init__(self, path: str = "", which: Literal["best", "last"] = "best", weights: folder.Weights = "full") -> None:
        self.path, self.which, self.weights = path, which, weights

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses, before and not after training, what could not be exported.

        Raises:
            ConfigError: The best checkpoint would be a folder of shards, or the base cannot be named by its path.
            CheckpointError: Something that is not a model is where the folder shall be.
        """
        backbone = cast(PreferenceModule, pl_module).backbone
        folder.check_base(backbone.path, "reference" if backbone.settings["quantize"] != "none" else self.weights)
        check_free(self._target(trainer))
        monitored = any(isinstance(c, ModelCheckpoint) and c.monitor for c in trainer.checkpoint_callbacks)
        if self.which == "best" and monitored and not _whole_checkpoints(trainer):
            raise ConfigError(
                "Export reads the best weights from its checkpoint, and this strategy writes it in parts; set Export.which: last"
                " (with ModelParallelStrategy, save_distributed_checkpoint: false does as well)"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder, in process 0; where the model is sharded, all processes hand in their parts."""
        if trainer.fast_dev_run or trainer.interrupted:  # type: ignore[attr-defined]
            return
        module, data = cast(PreferenceModule, pl_module), cast(PreferenceData, trainer.datamodule)  # type: ignore[attr-defined]
        kept = self._best(trainer)
        best = kept.best_model_path if kept else ""
        sharded = is_sharded(module)
        final = whole_state(module) if sharded else {}
        if not trainer.is_global_zero:
            return
        checkpoint = torch.load(best, map_location="cpu", weights_only=True) if best else {}
        chosen = checkpoint.get("state_dict", {})
        measured = {kept.monitor: kept.best_model_score} if kept else trainer.callback_metrics
        recipe: dict[str, Any] = {
            "module": class_name(module),
            "loss": recipe_of(module.loss),
            "step": checkpoint.get("global_step", trainer.global_step),
            "metrics": {name: _finite(value) for name, value in measured.items()},
            "checkpoint": Path(best).name if best else "last",
        }
        target = self._target(trainer)
        backbone, head, loss = module.parts() if sharded else (module.backbone, module.head, module.loss)
        whole = nn.ModuleDict({"backbone": backbone, "head": head, "loss": loss})
        if best and not sharded:
            final = {name: tensor.detach().clone() for name, tensor in whole.state_dict().items()}
        if best or sharded:
            whole.load_state_dict({**(final if sharded else {}), **chosen}, strict=False)
        folder.save(target, backbone, head, loss.tau, data.encode_config, module.tokenizer, recipe, self.weights)
        if best and not sharded:
            whole.load_state_dict(final)
        log.info("exported %s weights to %s", "the best" if best else "the last", target)

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "export")

    def _best(self, trainer: Trainer) -> ModelCheckpoint | None:
        if self.which == "last":
            return None
        kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor and c.best_model_path]
        return kept[0] if kept else None


def _finite(value: torch.Tensor | None) -> float | None:
    """A number that JSON has; what was not measured, such as the accuracy on ties alone, is null."""
    return float(value) if value is not None and torch.isfinite(value) else None


def _whole_checkpoints(trainer: Trainer) -> bool:
    """Whether a checkpoint is one file with all weights."""
    strategy = trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):
        return not strategy._save_distributed_checkpoint
    return not isinstance(strategy, DeepSpeedStrategy)
