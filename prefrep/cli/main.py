"""`bin/prefrep fit|validate|test|predict`: LightningCLI over preference models, policies and their data."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from prefrep.cli import friendly
from prefrep.errors import ConfigError, PrefrepError


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.
    """
    quiet()
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    _catalogue()

    class Parser(LightningArgumentParser):
        """Says what is wrong in one sentence instead of printing the usage of everything."""

        def error(self, message: str, ex: Exception | None = None) -> Any:
            print(f"prefrep: {sentence(message)}", file=sys.stderr)
            sys.exit(2)

        def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
            """Never takes a value for the name of a configuration file: `--data.train FILE` would be read whole, as YAML."""
            return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    class CLI(LightningCLI):
        """LightningCLI with the parser above."""

        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            """The parser, with options that appear in its help."""
            kwargs.setdefault("dump_header", ["prefrep"])
            parser = Parser(**kwargs)
            parser.add_argument("-c", "--config", action="config", help="A YAML file; several are merged in turn.")
            return parser

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            """Preference data are what `data` is about where no class is named."""
            parser.set_defaults({"data": {"class_path": "prefrep.data.preference.PreferenceData"}})

        def _trained(self) -> None:
            if self.config[self.subcommand].ckpt_path is None:
                raise ConfigError(
                    f"bin/prefrep {self.subcommand} needs a trained model: name a checkpoint with --ckpt_path; an exported folder is "
                    "evaluated by bin/eval and read by bin/score"
                )

        before_validate = before_test = _trained

        def before_predict(self) -> None:
            """Refuses a run whose predictions would be scattered over processes."""
            self._trained()
            if self.trainer.world_size > 1:
                raise ConfigError("bin/prefrep predict writes from one process; bin/score --workers scores with several")

        def after_predict(self) -> None:
            """Writes `predictions.jsonl`: the log-odds of each pair, one line each, in the order of the data."""
            out = Path(self.trainer.default_root_dir) / "predictions.jsonl"
            out.parent.mkdir(parents=True, exist_ok=True)
            scores = [float(score) for batch in self.trainer.predict_loop.predictions for score in batch]
            out.write_text("".join(json.dumps({"row": row, "score": score}) + "\n" for row, score in enumerate(scores)))
            print(f"written: {out}")

    import jsonargparse

    # Interpolation (${data.seed}) is resolved after all files and flags are merged, from the root of each file.
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        CLI(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "omegaconf+", "prog": "prefrep"},
            trainer_defaults={"use_distributed_sampler": False, "log_every_n_steps": 1},
            args=nulls(sys.argv[1:] if args is None else args),
        )
    except ValueError as error:  # jsonargparse wraps what a class says when it is made
        if (said := _said(error)) is None:
            raise
        raise said from None
    return 0


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


def _said(error: BaseException) -> PrefrepError | None:
    """Our own error among those that led to another."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PrefrepError):
        seen = seen.__cause__ or seen.__context__
    return seen


def sentence(message: str) -> str:
    """The part of a parser's message that says what is wrong, with the way out where a class was meant."""
    text = re.sub(r"\s+", " ", message.strip())
    if text.endswith(".model") and "are required" in text:
        return "no model is named; give a complete file with --config, such as configs/preference/gpm.yaml"
    if match := re.search(r'key "([\w.]+)".*Expected a dot import path string: (\S+)', text):
        key, name = match.groups()
        known = _known_classes()
        if name in known:
            return (
                f"{key}: {name} does not go there; BradleyTerry takes BTHead, PairPreference PairHead, GeneralPreference GPMHead, "
                "HybridPreference HybridHead"
            )
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"{key}: there is no class {name}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}")
    return text[:600]


def _catalogue() -> tuple[ModuleType, ...]:
    """The modules whose classes configurations choose between; classes can be named without their module once it is imported."""
    import prefrep.callbacks
    import prefrep.modules
    from prefrep import generation, judges
    from prefrep.data import preference, prompts
    from prefrep.nn import heads, losses, objectives, skew

    return heads, losses, skew, objectives, generation, judges, preference, prompts, prefrep.modules, prefrep.callbacks


def _known_classes() -> set[str]:
    """Names of the classes that configurations choose between."""
    found = {name: value for part in _catalogue() for name, value in vars(part).items() if isinstance(value, type)}
    return {
        name
        for name, value in found.items()
        if value.__module__.startswith("prefrep.") and not inspect.isabstract(value) and not issubclass(value, Exception)
    }


def quiet() -> None:
    """Silences warnings of libraries that no user can act on."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # Our batches are trees: lightning warns about worker counts and about its own use of jsonargparse and pytree.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*custom batch sampler `BatchOrder`.*")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")  # no validation data
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")  # frozen backbones, on purpose
    warnings.filterwarnings("ignore", module="jsonargparse")
    ours = logging.getLogger("prefrep")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    if not ours.handlers:
        ours.addHandler(_Stderr())
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.getMessage())
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for each file of weights that is loaded
    for name in ("httpx", "transformers", "datasets", "fsspec", "absl", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to whatever stderr is at the time, so that captured output is captured."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        print(self.format(record), file=sys.stderr)


if __name__ == "__main__":
    friendly.run(main)
