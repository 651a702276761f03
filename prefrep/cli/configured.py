"""`bin/prefrep`'s command line as LightningCLI reads it: what runs of one's own and the points of a sweep are configured by."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from types import ModuleType
from typing import Any

import jsonargparse
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import prefrep.callbacks
import prefrep.modules
from prefrep import generation, judges
from prefrep.data import preference, prompts
from prefrep.errors import ConfigError
from prefrep.modules import PreferenceModule
from prefrep.nn import heads, losses, objectives, skew

# Classes of these modules can be named without their module.
CATALOGUE: tuple[ModuleType, ...] = (
    heads, losses, skew, objectives, generation, judges, preference, prompts, prefrep.modules, prefrep.callbacks,
)  # fmt: skip


class Parser(LightningArgumentParser):
    """Raises what is wrong as one sentence instead of printing the usage of everything."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """See the class."""
        raise ConfigError(sentence(message))

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Never takes a value for the name of a configuration file: `--data.train FILE` would be read whole, as YAML."""
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})


class ConfiguredCLI(LightningCLI):
    """LightningCLI over our modules and data.

    Args:
        args: Arguments without the program's name.
        run: Whether the first argument is a sub-command, to be run.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        # Interpolation (${data.seed}) is resolved after all files and flags are merged, from the root of each file.
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "omegaconf+", "prog": "prefrep"},
            parser_class=Parser,
            trainer_defaults={"use_distributed_sampler": False, "log_every_n_steps": 1},
            args=nulls(args),
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Preference data are what `data` is about where no class is named."""
        parser.set_defaults({"data": {"class_path": "prefrep.data.preference.PreferenceData"}})


def nulls(args: list[str]) -> list[str]:
    """Writes `--model.backbone.lora null` as configuration: jsonargparse 4.53 hands nested options the text "None" instead.

    Args:
        args: Arguments without the program's name.
    """
    found: list[str] = []
    for arg in args:
        flag, _, value = arg.partition("=")
        if arg == "null" and found and found[-1].startswith("--model."):
            flag, value = found.pop(), arg
        found.append(f"--config={_null(flag)}" if value == "null" and flag.startswith("--model.") else arg)
    return found


def _null(flag: str) -> str:
    """`--model.backbone.lora` as a configuration that sets null: with the `init_args` that options omit."""
    content: Any = None
    for name in reversed([key for key in flag.split(".")[1:] if key != "init_args"]):
        content = {"init_args": {name: content}}
    return json.dumps({"model": content})


def sentence(message: str) -> str:
    """The part of a parser's message that says what is wrong, with the way out where a class was meant."""
    text = re.sub(r"\s+", " ", message.strip())
    if text.endswith(".model") and "are required" in text:
        return "no model is named; give a complete file with --config, such as configs/preference/gpm.yaml"
    if match := re.search(r'key "([\w.]+)".*Expected a dot import path string: (\S+)', text):
        key, name = match.groups()
        known = _known_classes()
        if name in known:
            takes = ", ".join(f"{kind.__name__} {kind.head_type().__name__}" for kind in PreferenceModule.__subclasses__())
            return f"{key}: {name} does not go there; modules take these heads: {takes}"
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"{key}: there is no class {name}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}")
    return text[:600]


def _known_classes() -> set[str]:
    """Names of the classes that configurations choose between."""
    found = {name: value for part in CATALOGUE for name, value in vars(part).items() if isinstance(value, type)}
    return {
        name
        for name, value in found.items()
        if value.__module__.startswith("prefrep.") and not inspect.isabstract(value) and not issubclass(value, Exception)
    }
