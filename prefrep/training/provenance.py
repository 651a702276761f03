"""What a training run was begun with, kept beside its checkpoints, so that a resumed run knows what has changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from prefrep.callbacks import MetricsFile
from prefrep.data.files import ROLES
from prefrep.data.sources import content
from prefrep.disk import replace_json
from prefrep.errors import ConfigError

log = logging.getLogger(__name__)

NAME = "provenance.json"
Settings = dict[str, Any]
# Settings that may change freely, with all that begins with them: where and how fast a run works, and what it reads of other data.
_FREE = (
    "data.num_workers", "data.cache", "data.test", "data.predict", "ckpt_path", "on_change", "weights_only", "config", "verbose",
)  # fmt: skip
# Of the trainer and its callbacks, these move numbers.
_TRAINER = (
    "accumulate_grad_batches", "precision", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches", "overfit_batches",
    "deterministic", "callbacks.SampleResponses", "callbacks.LabelPreferences", "callbacks.UpdateReference",
    "callbacks.KLBudget", "callbacks.HeldOut.patience",
)  # fmt: skip
_NOTED = ("trainer.max_epochs", "trainer.max_steps", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "data.num_workers")


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings of a run as dotted names with plain values, and a digest of content and order for each local data source.

    A class stands under its setting's name, its arguments below: `model.head: GPMHead`, `model.head.dim: 4`.

    Args:
        config: Configuration of `fit` as plain data.

    Raises:
        DataError: A data source cannot be read.
    """
    found = dict(_flat("", {name: value for name, value in config.items() if name != "data"}))
    data = dict(config.get("data") or {})
    arguments = dict(data.get("init_args") or {})
    for part in ("train", "val"):
        given = arguments.get(part)
        listed = given if isinstance(given, list) else [] if given is None else [given]
        for number, source in enumerate(listed):
            about = dict(source) if isinstance(source, Mapping) else {"path": source}
            about["content"] = content(about["path"], about.get("split"), ROLES[part]) or "not local"
            listed = [*listed[:number], about, *listed[number + 1 :]]
        arguments[part] = listed
    if data:
        found |= dict(_flat("data", data | {"init_args": arguments}))
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and "class_path" in value:
        yield name, value["class_path"].rsplit(".", 1)[-1]
        value = value.get("init_args") or {}
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}" if name else key, each)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value):
            kind = str(each.get("class_path", number)).rsplit(".", 1)[-1] if isinstance(each, Mapping) else number
            yield from _flat(f"{name}.{kind}", each)
    else:
        yield name, value


def moves_numbers(name: str) -> bool:
    """Return whether a setting decides what a run computes."""

    def below(places: tuple[str, ...], inner: str) -> bool:
        return any(inner == place or inner.startswith(f"{place}.") for place in places)

    if name.startswith("trainer."):
        return below(_TRAINER, name.removeprefix("trainer."))
    is_moved_file = name.startswith("data.") and name.endswith(".path")  # its content counts
    return not below(_FREE, name) and not is_moved_file


def changes(before: Settings, now: Settings) -> Settings:
    """Return what differs between two runs, as {setting: [old, new]}; null stands for a setting that is not there."""
    return {name: [before.get(name), now.get(name)] for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)}


class Provenance(Callback):
    """`provenance.json` beside the checkpoints: the settings and data of the run, and what was changed on the way.

    It is written together with the first checkpoint, so that it always describes the checkpoints that stand there.

    Args:
        settings: Settings of the run, see `settings_of`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._earlier: list[Settings] = []
        self._changed: Settings = {}
        self._written = False

    def compare(self, checkpoints: Path, go_on: bool) -> None:
        """Compare the run with the one that wrote the checkpoints that it resumes from.

        Args:
            checkpoints: Their folder.
            go_on: Whether to resume in spite of changes that move numbers, which are then noted in `metrics.jsonl` and `provenance.json`.

        Raises:
            ConfigError: Something differs that moves numbers.
        """
        file = checkpoints / NAME
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            before, self._earlier = found["settings"], found["changes"]
        except FileNotFoundError:
            log.info("%s: no %s there, so nobody knows whether the checkpoints are of the same settings and data", checkpoints, NAME)
            return
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{file}: damaged; delete it to resume without a comparison of settings and data") from None
        different = changes(before, self._settings)
        self._changed = {name: values for name, values in different.items() if moves_numbers(name)}
        for name in (name for name in _NOTED if name in different):
            log.info("note: %s was %s and is %s now", name, *map(_shown, different[name]))
        if not self._changed:
            return
        listed = ", ".join(f"{name} was {_shown(old)} and is {_shown(new)} now" for name, (old, new) in self._changed.items())
        if not go_on:
            raise ConfigError(f"{checkpoints}: begun otherwise: {listed}; resume with what was, or go on with --on-change continue")
        log.warning("%s: begun otherwise: %s", checkpoints, listed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the change in `metrics.jsonl`."""
        if self._changed:
            self._changed = {"step": trainer.global_step, **self._changed}
            for callback in (each for each in trainer.callbacks if isinstance(each, MetricsFile)):  # type: ignore[attr-defined]
                callback.note(trainer, {name: values for name, values in self._changed.items() if name != "step"})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the file together with the first checkpoint of this process."""
        if self._written or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        self._written = True
        changed = [*self._earlier, *([self._changed] if self._changed else [])]
        for folder in {each.dirpath for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)}:
            if folder is not None:
                replace_json(Path(folder) / NAME, {"settings": self._settings, "changes": changed})


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}..." if len(text) == 64 and not text.strip("0123456789abcdef") else text
