"""The folder that a run leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from prefrep.data.preference import PreferenceData
from prefrep.io import folder
from prefrep.modules.preference import PreferenceModule

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

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder."""
        if trainer.fast_dev_run or trainer.interrupted or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        module, data = cast(PreferenceModule, pl_module), cast(PreferenceData, trainer.datamodule)  # type: ignore[attr-defined]
        best = self._best(trainer)
        recipe: dict[str, Any] = {
            "module": type(module).__name__,
            "step": trainer.global_step,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "checkpoint": Path(best).name if best else "last",
        }
        final = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()} if best else {}
        if best:
            module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"], strict=False)
        target = Path(self.path or Path(trainer.default_root_dir) / "export")
        folder.save(target, module.backbone, module.head, module.loss.tau, data.encode_config, module.tokenizer, recipe, self.weights)
        if best:
            module.load_state_dict(final)
        log.info("exported %s weights to %s", "the best" if best else "the last", target)

    def _best(self, trainer: Trainer) -> str:
        if self.which == "last":
            return ""
        kept = [c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
        return next((path for path in kept if path), "")
