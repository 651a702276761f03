"""Export of a trained preference model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.io import folder, hub
from prefrep.io.heads import check_head
from prefrep.io.replacing import check_free
from prefrep.metrics.intervals import accuracy_interval
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.sharding import class_name, is_sharded, whole_state
from prefrep.parts import recipe as recipe_of
from prefrep.room import require

log = logging.getLogger(__name__)


class Export(Callback):
    """Export of the model with a model card, when training ends.

    Args:
        path: The folder; if empty, `export` in the trainer's default_root_dir.
        which: `best`: the weights of the best checkpoint by a validation metric, or the final weights if there is none. `last`: the final
            weights.
        weights: `full`: the whole language model. `reference`: the trained weights and the path of the base model.
        push: Repository on the hub, `owner/name`, that the folder is uploaded to; a missing one is made, as private or public as its
            owner's settings say. Empty: none.
    """

    def __init__(self, path: str = "", which: Literal["best", "last"] = "best", weights: folder.Weights = "full", push: str = "") -> None:
        self.path, self.which, self.weights, self.push = path, which, weights, push
        self._validated: dict[int, dict[str, dict[str, Any]]] = {}  # what was measured, by optimizer step

    def state_dict(self) -> dict[str, Any]:
        """Returns what was measured so far, for a run that is resumed."""
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what an interrupted run has measured."""
        self._validated = state_dict["validated"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before training that the model can be exported.

        Raises:
            ConfigError: The run trains no preference model, its best checkpoint would be sharded, its base has no path to refer to, or
                a recipe of head or loss could not be written and followed.
            CheckpointError: The target folder exists and does not hold an exported model, or the hub refuses.
        """
        if not isinstance(pl_module, PreferenceModule):
            name = type(pl_module).__name__
            raise ConfigError(f"Export exports preference models, and this is a {name}; use the callback ExportPolicy for a policy")
        module, backbone = pl_module, pl_module.backbone
        check_head(module.head)
        recipe_of(module.loss)
        folder.check_base(backbone.path, "reference" if backbone.settings["quantize"] != "none" else self.weights)
        if trainer.is_global_zero and not cast(Any, trainer).fast_dev_run:
            kept = [each for each in backbone.parameters() if each.requires_grad or self.weights == "full"]
            needs = sum(each.numel() * each.element_size() for each in kept)
            require(self._target(trainer), needs, "the exported model", "set Export.weights to reference")
        check_free(self._target(trainer))
        if self.push and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            hub.check(self.push)
        monitored = any(isinstance(c, ModelCheckpoint) and c.monitor for c in trainer.checkpoint_callbacks)
        if self.which == "best" and monitored and not _whole_checkpoints(trainer):
            raise ConfigError(
                "Export cannot read the best weights from the sharded checkpoints of this strategy; set Export.which: last"
                " (or, with ModelParallelStrategy, save_distributed_checkpoint: false)"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what was measured, with the interval of the accuracy, for the model card."""
        if trainer.sanity_checking or not isinstance(data := trainer.datamodule, PreferenceData):  # type: ignore[attr-defined]
            return
        values = {name: _finite(value) for name, value in trainer.callback_metrics.items()}
        found = {name.removeprefix("val/"): {"value": value} for name, value in values.items() if name.startswith("val/")}
        n, accuracy = data.count("val"), values.get("val/accuracy")
        if accuracy is not None and n:
            low, high = accuracy_interval(round(accuracy * n), n)
            found["accuracy"] |= {"low": low, "high": high, "n": n}
        self._validated[trainer.global_step] = found

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder on rank 0; if the model is sharded, all ranks contribute their shards."""
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
            "data": {name: data.paths(name) for name in ("train", "val")},
            **({} if module.init is None else {"init": module.init}),
        }
        recipe["validation"] = self._validated.get(recipe["step"], {})
        target = self._target(trainer)
        backbone, head, loss = module.parts() if sharded else (module.backbone, module.head, module.loss)
        whole = nn.ModuleDict({"backbone": backbone, "head": head, "loss": loss})
        if best and not sharded:
            final = _aside(whole)
        if best or sharded:
            whole.load_state_dict({**(final if sharded else {}), **chosen}, strict=False)
        folder.save(target, backbone, head, loss.tau, data.encode_config, module.tokenizer, recipe, self.weights)
        if best and not sharded:
            whole.load_state_dict(final)
        log.info("exported %s weights to %s", "the best" if best else "the last", target)
        if self.push:
            log.info("pushed to %s", hub.push(target, self.push))

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "export")

    def _best(self, trainer: Trainer) -> ModelCheckpoint | None:
        if self.which == "last":
            return None
        kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor and c.best_model_path]
        return kept[0] if kept else None


def _aside(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a module's state in the machine's memory: a GPU that trained the model may have no room for a second one."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def _finite(value: torch.Tensor | None) -> float | None:
    """Return a number that JSON can represent; null if it is undefined, such as the accuracy on ties only."""
    return float(value) if value is not None and torch.isfinite(value) else None


def _whole_checkpoints(trainer: Trainer) -> bool:
    """Return whether a checkpoint is one file with all weights."""
    strategy = trainer.strategy
    return not (isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint)
