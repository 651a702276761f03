"""The points of a sweep, parsed like command lines of `prefrep fit` before anything runs, each with its engine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.pytorch import seed_everything

from prefrep.callbacks import Export
from prefrep.data.encode import Encoder
from prefrep.data.files import ROLES
from prefrep.data.preference import PreferenceData
from prefrep.data.sources import Source, content, named, read
from prefrep.errors import ConfigError, PrefrepError
from prefrep.evaluation import pairs
from prefrep.evaluation.layout import model_name, versions, write_results
from prefrep.evaluation.scores import digest, log_pairs
from prefrep.io.fingerprint import fingerprint
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.heads import BTHead
from prefrep.records import Comparison
from prefrep.scoring import Scorer
from prefrep.sweeps.frozen import Shared
from prefrep.sweeps.spec import Point
from prefrep.sweeps.study import alone
from prefrep.sweeps.table import points_folder
from prefrep.sweeps.worker import Engine, Fit, Scored
from prefrep.training.parser import ConfiguredCLI

_QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@dataclass(frozen=True)
class Prepared:
    """A parsed point.

    Args:
        point: The point.
        engine: Trains and scores it.
        about: Plain data that the study keeps.
    """

    point: Point
    engine: Engine
    about: dict[str, Any]


def prepare(points: Sequence[Point], out: Path) -> list[Prepared]:
    """Parse all points, so that a typing error in the last one is found before the first one trains.

    Args:
        points: The points.
        out: The sweep's folder.

    Raises:
        ConfigError: A point's configuration is wrong, or it has no validation data.
    """
    for name in ("prefrep", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)  # messages that every run would repeat
    shared, fit = Frozen(out), Fit(_score)
    known, recipes, prepared = cache(content), dict[str, str](), []
    for point in points:
        folder = points_folder(out, point.name)
        command = Command(point, folder)
        if not _sources(command.config, "val"):
            raise ConfigError(f"{point.name}: no validation data, so models cannot be compared; add --set data.val=FILE")
        if point.model not in recipes:
            # The same seed for all, since ${data.seed} can be a part of any value.
            plain = command if point.seed == 0 else Command(replace(point, seed=0), folder)
            data = [known(source.path, source.split, ROLES["train"]) for source in _sources(plain.config, "train")]
            recipes[point.model] = _digest(json.dumps([_said(plain, folder), data]))
        engine: Engine = shared if command.frozen else fit
        if command.frozen:
            shared.parsed[point.name] = command
        values = json.loads(json.dumps(dict(point.values)))
        about = {"settings": _digest(_said(command, folder)), "recipe": recipes[point.model], "model": point.model, "seed": point.seed}
        prepared.append(Prepared(point, engine, about | {"values": values}))
    return prepared


class Command(ConfiguredCLI):
    """`prefrep fit` of a point, parsed in this process; `build` instantiates it.

    Args:
        point: The point.
        folder: Its folder.

    Raises:
        ConfigError: The configuration is wrong.
    """

    def __init__(self, point: Point, folder: Path) -> None:
        try:
            super().__init__([*point.arguments(folder), *_QUIET], run=False)
        except PrefrepError as error:
            raise ConfigError(f"{point.name}: {error}") from error

    def _set_seed(self) -> None:
        """Do nothing: parsing needs no seed."""

    def instantiate_classes(self) -> None:
        """Do nothing: `build` instantiates the classes."""

    def build(self) -> Command:
        """Return model, data and trainer as `fit` makes them."""
        seed_everything(self.config.seed_everything, workers=True, verbose=False)
        super().instantiate_classes()
        return self

    @property
    def frozen(self) -> bool:
        """Return whether many heads can share the language model in this process."""
        model, data, trainer = self.config.model, self.config.data, self.config.trainer
        backbone = getattr(model.init_args, "backbone", None)
        one = trainer.strategy == "auto" and trainer.num_nodes == 1 and (trainer.devices in (1, "1") or torch.cuda.device_count() < 2)
        keeps = data.class_path == f"{PreferenceData.__module__}.PreferenceData" and data.init_args.cache is not None
        return bool(backbone is not None and getattr(backbone.init_args, "frozen", False) and one and keeps)

    @property
    def backbone_key(self) -> str:
        """Return the settings of the language model."""
        return _plain(self.config.model.init_args.backbone)

    @property
    def data_key(self) -> str:
        """Return the settings of the data, without the seed if only the order of examples depends on it."""
        return json.dumps(self._data(), sort_keys=True, default=str)

    @property
    def reading_key(self) -> str:
        """Return the settings that determine which texts the language model reads."""
        model = self.config.model
        data = {name: value for name, value in self._data().items() if name not in ("batch_size", "num_workers")}
        kind = [model.class_path, getattr(getattr(model.init_args, "head", None), "class_path", None)]  # some heads read pairs of responses
        return json.dumps([self.backbone_key, kind, data], sort_keys=True, default=str)

    def _data(self) -> dict[str, Any]:
        settings = dict(self.config.data.init_args.as_dict())
        sources = settings["train"] if isinstance(settings["train"], list) else [settings["train"]]
        if all(not isinstance(source, dict) or source.get("weight", 1.0) == 1.0 for source in sources):
            settings.pop("seed")
        return settings


class Frozen:
    """The engine of points on frozen language models, which all run in this process, so that each text is read once.

    Args:
        out: The sweep's folder.
    """

    name = "frozen"

    def __init__(self, out: Path) -> None:
        self._out, self._shared = out, Shared()
        self._read: set[str] = set()
        self.parsed: dict[str, Command] = {}  # parsing takes as long as training a head on a few hundred examples

    def run(self, point: Point, folder: Path, lock: IO[bytes]) -> Scored:
        """See `prefrep.sweeps.worker.Engine`."""
        command = (self.parsed.pop(point.name, None) or Command(point, folder)).build()
        reads = command.reading_key
        # The first point that needs texts reads them for all: a waiting worker finds the cached states of another one.
        with nullcontext() if reads in self._read else alone(self._out, "reading"):
            found = self._run(command, folder)
        self._read.add(reads)
        return found

    def _run(self, command: Command, folder: Path) -> Scored:
        model, data, trainer = cast(PreferenceModule, command.model), cast(PreferenceData, command.datamodule), command.trainer
        export, last = folder / "export", folder / "checkpoints" / "last.ckpt"
        if not (export / "prefrep.json").exists():
            exports = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Export)]
            if not exports:
                raise ConfigError("training would leave no export/; the base configuration needs the callback Export")
            for each in exports:
                each.weights = "reference"  # no point needs a copy of the language model
            self._shared.train(model, data, trainer, command.backbone_key, command.data_key, last if last.exists() else None)
        self._shared.build(model, command.backbone_key)
        comparisons = _comparisons(command.config, Encoder(model.tokenizer, data.encode_config, model.layout))
        known = digest(comparisons)
        scores = self._shared.scores(
            model, export, data, comparisons, command.backbone_key, command.data_key + known, trainer.strategy.root_device
        )
        rows = pairs.pair_rows(comparisons, scores)
        compares = not isinstance(model.head, BTHead)
        about = {"name": model_name(export), "path": str(export), "pairwise": compares}
        pairs.write_rows(folder, rows, {"benchmark": "pairs", "model": about, "data": known})
        _results(folder, rows, command.config, about)
        return Scored(rows, known)


def _score(point: Point, export: Path, folder: Path) -> Scored:
    """Score an exported model on its validation set."""
    config = Command(point, folder).config
    backbone = getattr(config.model.init_args, "backbone", None)
    # The configuration of the sweep takes precedence over the export.
    trusted = bool(backbone is not None and getattr(backbone.init_args, "trust_remote_code", False))
    scorer = Scorer.from_pretrained(export, trust_remote_code=trusted)
    comparisons = _comparisons(config, Encoder(scorer.model.tokenizer, scorer.encode, scorer.model.head.layout))
    about = {"fingerprint": fingerprint(export), **scorer.describe()}
    rows = log_pairs(scorer, comparisons, folder, pairs.PairRow, "pairs", about)
    _results(folder, rows, config, {"name": model_name(export), "path": str(export), "pairwise": scorer.pairwise})
    return Scored(rows, digest(comparisons))


def _results(folder: Path, rows: Sequence[pairs.PairRow], config: Any, model: dict[str, Any]) -> None:
    """Write `results.json` like `prefrep eval pairs`."""
    found = pairs.evaluate(rows) | {"data": [source.path for source in _sources(config, "val")], "model": model, "versions": versions()}
    write_results(folder, found)


def _sources(config: Any, part: str) -> list[Source]:
    """Return the training or the validation data of a configuration."""
    given = getattr(config.data.init_args, part, None)
    if given is None:
        return []
    listed = given if isinstance(given, list) else [given]
    return named([one if isinstance(one, str) else Source(**vars(one)) for one in listed], config.data.init_args.format)


def _comparisons(config: Any, encoder: Encoder) -> Sequence[Comparison]:
    """Return the validation data without the rows that training skips under `on_bad_row: skip`."""
    bad = config.data.init_args.on_bad_row
    records = (record for source in _sources(config, "val") for record in read(source, bad, role=ROLES["val"]))
    return pairs.comparisons_of(record for record in records if bad == "error" or not encoder.refuses(record))


def _said(command: Command, folder: Path) -> str:
    """Return all settings of a point except its folder."""
    return str(command.parser.dump(command.config, format="json")).replace(str(folder), "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(config: Any) -> str:
    return json.dumps(config.as_dict(), sort_keys=True, default=str)
