"""`prefrep fit|validate|test|predict`: LightningCLI over preference models, policies and their data."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser

from prefrep.disk import replace_lines
from prefrep.errors import CheckpointError, ConfigError, PrefrepError, UsageError
from prefrep.locks import writing
from prefrep.parts import import_declared, import_modules
from prefrep.training.parser import ConfiguredCLI, Parser
from prefrep.training.progress import ProgressLine
from prefrep.training.provenance import Provenance, settings_of

log = logging.getLogger(__name__)


# Options of a model to go on from: the settings that they are short for, and what they need.
_SHORT = {
    "--init-from": ("--model.init", "a model, such as runs/mine/export"),
    "--as": ("--model.init_as", "a kind, such as ultrarm"),
    "--objective": ("--model.init_objective", "a name, such as helpfulness"),
}


def _written_out(arg: str) -> str:
    """Return an option that is short for a setting as that setting, and any other argument as it is."""
    name, equals, value = arg.partition("=")
    return _SHORT.get(name.replace("init_from", "init-from"), (name,))[0] + equals + value


class _Early(argparse.Action):
    """An option that is taken out before the parser reads the others, and stands in its help."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class CommandLine(ConfiguredCLI):
    """The four sub-commands.

    Args:
        args: The sub-command and its options; `--init-from MODEL` is short for `--model.init MODEL`, and so are `--as` and `--objective`
            for `--model.init_as` and `--model.init_objective`.
    """

    def __init__(self, args: list[str]) -> None:
        typed = [f"--on_change{arg.removeprefix('--on-change')}" if arg.startswith("--on-change") else arg for arg in args]
        self._typed = typed
        if typed and (needed := _SHORT.get(typed[-1].replace("init_from", "init-from"))):
            raise UsageError(f"{typed[-1]} needs {needed[1]}")
        super().__init__([_written_out(arg) for arg in typed])

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return the parser, with options that appear in its help."""
        kwargs.setdefault("dump_header", ["prefrep"])
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="YAML file or shipped configuration; several are merged in turn.")
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_argument(
            "--import", action=_Early, metavar="MODULE", help="Module whose parts the configuration may name; may be repeated."
        )
        for option, name, what in (
            ("--init-from", "MODEL", "Model to go on training from"), ("--as", "KIND", "What that model is, if its files leave it open"),
            ("--objective", "NAME", "Its objective to go on from, if it has several"),
        ):  # fmt: skip
            parser.add_argument(option, action=_Early, metavar=name, help=f"{what}, short for {_SHORT[option][0]}.")
        if subcommand == "fit":
            parser.add_argument(
                "--on_change", type=Literal["stop", "continue"], default="stop",
                help="What to do where a resumed run differs from its checkpoint in what moves numbers: data, model, optimizer, precision.",
            )  # fmt: skip
        return parser

    def before_instantiate_classes(self) -> None:
        """Note what the run is; that changes are accepted holds for this call, not for the configuration that is saved."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            self._go_on = config.pop("on_change") == "continue"
            plain = json.loads(self._parser(self.subcommand).dump(config, skip_validation=True, format="json"), parse_constant=str)
            self._provenance = Provenance(settings_of(plain))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer, with our progress line unless the configuration has a progress bar of its own or none."""
        config = self.config_init[self.subcommand]["trainer"]
        callbacks = [*(config["callbacks"] or [])]
        if self.subcommand == "fit":
            callbacks.append(self._provenance)
        if config["enable_progress_bar"] is not False and not any(isinstance(each, ProgressBar) for each in callbacks):
            callbacks.append(ProgressLine())
        kwargs.setdefault("callbacks", callbacks)
        return super().instantiate_trainer(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """Ignore hyper-parameters in a checkpoint: Lightning would import and build the classes that the file names.

        Checkpoints of prefrep have none; the configuration describes the model.
        """

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Return the arguments of the trainer's method. Checkpoints are weights and plain data wherever they come from.

        Lightning's own default reads a checkpoint behind a URL as a pickle, which can run code.
        """
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a sub-command. A run folder has one writer: process 0 of a distributed run holds its lock."""
        alone = subcommand in ("fit", "predict") and self.trainer.is_global_zero and not cast(Any, self.trainer).fast_dev_run
        with writing(Path(self.trainer.default_root_dir), folder=True) if alone else nullcontext():
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Compare a resumed run with its checkpoint, and refuse a checkpoint that is not there, where a person at a terminal asks for it.

        Lightning trains from scratch behind `ckpt_path: last` where there is no checkpoint. Configurations and job scripts rely on it: one
        command begins a run and resumes it. A person who types it means a run that exists.
        """
        path = self.config[self.subcommand].ckpt_path
        folder = next((file.parent for file in self._last_checkpoints()), None) if path in ("last", "best") else path and Path(path).parent
        if folder is not None:
            self._provenance.compare(folder, self._go_on)
        if path != "last" or folder is not None:
            return
        where = self.trainer.default_root_dir
        if "last" in _values_of("--ckpt_path", self._typed) and sys.stdin is not None and sys.stdin.isatty():
            raise ConfigError(
                f"--ckpt_path last: {where} holds no checkpoint; name the run's folder with --trainer.default_root_dir, or drop "
                "--ckpt_path to train from scratch"
            )
        log.info("%s holds no checkpoint to resume from: training from scratch", where)

    def _last_checkpoints(self) -> list[Path]:
        callbacks = [each for each in cast(Any, self.trainer).checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        folders = [Path(each.dirpath) for each in callbacks if each.dirpath is not None]
        return [file for folder in folders for file in folder.glob("last*.ckpt")]

    def _trained(self) -> None:
        if self.config[self.subcommand].ckpt_path is None:
            raise ConfigError(
                f"prefrep {self.subcommand} needs a trained model: name a checkpoint with --ckpt_path; an exported folder is "
                "evaluated by `prefrep eval` and read by `prefrep score`"
            )

    before_validate = before_test = _trained

    def before_predict(self) -> None:
        """Refuse a run whose predictions would be scattered over processes."""
        self._trained()
        if self.trainer.world_size > 1:
            raise ConfigError("prefrep predict writes from one process; `prefrep score --workers N` scores with several")

    def after_predict(self) -> None:
        """Write `predictions.jsonl`: the log-odds of each pair, one line each, in the order of the data.

        Records that were dropped while encoding have none. Of several responses, `pair` names the two that are compared.
        """
        out = Path(self.trainer.default_root_dir) / "predictions.jsonl"
        scores = (float(score) for batch in self.trainer.predict_loop.predictions for score in batch)
        places = (
            {"row": row, "id": id} | ({} if pair is None else {"pair": pair})
            for row, id, pairs in self.datamodule.predicted
            for pair in ([None] if pairs is None else pairs)
        )
        limit = cast(Any, self.trainer).limit_predict_batches
        whole = limit == 1.0 and isinstance(limit, float)  # the number 1 is one batch
        replace_lines(out, (place | {"score": score} for place, score in zip(places, scores, strict=whole)))
        print(f"written: {out}")


def run(args: list[str]) -> None:
    """Run a sub-command of LightningCLI, with the parts that installed distributions declare and that `--import` names.

    Args:
        args: The sub-command and its options. `--import MODULE` may be repeated.

    Raises:
        PrefrepError: The configuration is wrong, or what the run itself raises.
    """
    rest, modules = _without_imports(args)
    import_declared()
    import_modules(modules)
    try:
        CommandLine(rest)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the checkpoint holds more than weights and plain data, which could run code, or is damaged; name one that prefrep wrote"
        ) from error
    except ValueError as error:  # jsonargparse wraps what a class raises when it is built
        if (ours := _ours(error)) is None:
            raise
        raise ours from None


def _ours(error: BaseException) -> PrefrepError | None:
    """Return our own error among those that led to another."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PrefrepError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _without_imports(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without `--import MODULE`, and the modules: the parser learns of a class when it is imported."""
    rest: list[str] = []
    for arg in args:
        if rest and rest[-1] == "--import":
            rest[-1] = f"--import={arg}"
        else:
            rest.append(arg)
    modules = [arg.removeprefix("--import=") for arg in rest if arg.startswith("--import=")]
    if "--import" in rest:
        raise UsageError("--import needs the name of a module, such as mypackage.heads")
    return [arg for arg in rest if not arg.startswith("--import=")], modules


def _values_of(flag: str, args: list[str]) -> list[str]:
    return [after for before, after in pairwise(args) if before == flag] + [
        arg.removeprefix(f"{flag}=") for arg in args if arg.startswith(f"{flag}=")
    ]
