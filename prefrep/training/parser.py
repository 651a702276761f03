"""LightningCLI's parser over our modules and data: it reads the configurations of runs and of sweep trials."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from types import ModuleType
from typing import Any

import jsonargparse
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import prefrep.callbacks
import prefrep.modules
from prefrep import generation, judges
from prefrep.data import preference, prompts
from prefrep.errors import UsageError
from prefrep.modules import PreferenceModule
from prefrep.nn import alignment, heads, losses, objectives, skew
from prefrep.parts import class_names
from prefrep.shipped import config_file

# Classes of these modules can be named without their module.
CATALOGUE: tuple[ModuleType, ...] = (
    heads, losses, skew, objectives, alignment, generation, judges, preference, prompts, prefrep.modules, prefrep.callbacks,
)  # fmt: skip


_CONFIG_FLAGS = ("-c", "--config")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """PyYAML's dumper, for numbers and texts of any type: a restricted type survives where a class with plain types replaces another."""


for _base in (int, float, str):
    _Dumper.add_multi_representer(_base, lambda dumper, value, base=_base: dumper.represent_data(base(value)))


class Parser(LightningArgumentParser):
    """LightningCLI's parser, which raises an error as one sentence instead of printing the usage of all options."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise UsageError."""
        raise UsageError(sentence(message))

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Add arguments whose values are never names of YAML files: `--data.train FILE` would be parsed as one."""
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})


class ConfiguredCLI(LightningCLI):
    """LightningCLI over our modules and data.

    Args:
        args: Arguments without the program's name.
        run: Whether the first argument is a sub-command, which is then run.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        # Interpolation (${data.seed}) is resolved after all files and flags are merged, from the root of each file.
        jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        jsonargparse.set_dumper("yaml", _dump)
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
            args=nulls(shipped(args)),
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Make PreferenceData the default class of `data`."""
        parser.set_defaults({"data": {"class_path": "prefrep.data.preference.PreferenceData"}})


def _dump(data: Any) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


def shipped(args: list[str]) -> list[str]:
    """Replace names of shipped configurations behind `--config` by their files.

    Args:
        args: Arguments without the program's name.

    Raises:
        ConfigError: There is neither such a file nor such a configuration.
    """
    found: list[str] = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        if found and found[-1] in _CONFIG_FLAGS:
            found.append(arg if arg.startswith(("{", "-")) else str(config_file(arg)))
        elif flag in _CONFIG_FLAGS and equals and not value.startswith("{"):
            found.append(f"{flag}={config_file(value)}")
        else:
            found.append(arg)
    return found


def nulls(args: list[str]) -> list[str]:
    """Write `--model.backbone.lora null` as configuration: jsonargparse 4.53 hands nested options the text "None" instead.

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
    """Return `--model.backbone.lora` as a configuration that sets null, with the `init_args` that options omit."""
    content: Any = None
    for name in reversed([key for key in flag.split(".")[1:] if key != "init_args"]):
        content = {"init_args": {name: content}}
    return json.dumps({"model": content})


def sentence(message: str) -> str:
    """Return a parser's message as one sentence, with a remedy where a class was meant."""
    text = re.sub(r"\s+", " ", message.strip())
    if text.endswith(".model") and "are required" in text:
        return "no model is named; name a configuration with --config, such as preference/gpm"
    if re.search("Option 'init(_as|_objective)?' is not accepted", text):
        return "--init-from, --as and --objective are for preference models; a policy begins with --model.backbone.path"
    if "trainer.callbacks" in text and (match := re.search(r"the following arguments are required: ([\w, ]+?) -", text)):
        return f"trainer.callbacks: a callback needs {match[1]}; name it behind the callback, as in --trainer.callbacks.{match[1]} VALUE"
    if match := re.search(r'key "([\w.]+)".*Expected a dot import path string: (\S+)', text):
        key, name = match.groups()
        known = _known_classes()
        if name in known:
            takes = ", ".join(f"{kind.__name__} {kind.head_type().__name__}" for kind in PreferenceModule.__subclasses__())
            return f"{key}: {name} does not go there; modules take these heads: {takes}"
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"{key}: there is no class {name}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}")
    if match := re.search(r'key "([\w.]+)": Type .*? callable class: (.*?)\.+ Got value: (?:Namespace\(class_path=)?\'?([\w.]+)', text):
        key, why, name = match.groups()
        why = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", why)
        missing = "No module named" in why
        remedy = "install its package, or set PYTHONPATH to the folder it is in" if missing else "name a class of that kind"
        return f"{key}: {name} cannot be used ({why}); {remedy}"
    return text[:600]


def _known_classes() -> set[str]:
    """Names of the classes that configurations can name."""
    found = {name: value for part in CATALOGUE for name, value in vars(part).items() if isinstance(value, type)}
    own = {
        name
        for name, value in found.items()
        if value.__module__.startswith("prefrep.") and not inspect.isabstract(value) and not issubclass(value, Exception)
    }
    return own | {name for name in class_names() if not name.startswith("_")}
