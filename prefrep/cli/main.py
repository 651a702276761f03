"""`bin/prefrep fit|validate|test|predict`: LightningCLI over preference models, policies and their data."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from prefrep.cli import friendly
from prefrep.disk import replace_lines
from prefrep.errors import ConfigError, PrefrepError
from prefrep.locks import writing

HELP = """usage: bin/prefrep fit|validate|test|predict --config FILE [--KEY VALUE ...]

Trains and tests preference models and policies.

  fit       train; --ckpt_path FILE goes on where the run of that checkpoint was stopped
  validate  the validation data's metrics, of the checkpoint that --ckpt_path names
  test      likewise, of the test data
  predict   log-odds of each pair into predictions.jsonl

-c, --config FILE  settings; of several files the later one wins. configs/preference trains preference models, configs/gpo policies
--KEY VALUE        one setting by its dotted name, such as --model.head.dim 8 or --data.train pairs.jsonl
--print_config     shows all settings, and what they are set to, without running

Every setting: bin/prefrep fit --help; those of one class: bin/prefrep fit --model.help GeneralPreference"""


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args in (["-h"], ["--help"]):
        # Lightning's own help takes as long as importing it, five seconds on a slow core.
        print(HELP, file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    quiet()
    from lightning.pytorch.cli import LightningArgumentParser

    from prefrep.cli.configured import ConfiguredCLI, Parser

    class Printing(Parser):
        """Ends the program as command lines do that were typed wrongly."""

        def error(self, message: str, ex: Exception | None = None) -> Any:
            try:
                super().error(message, ex)
            except ConfigError as error:
                print(f"prefrep: {error}", file=sys.stderr)
                sys.exit(2)

    class CLI(ConfiguredCLI):
        """The sub-commands."""

        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            """The parser, with options that appear in its help."""
            kwargs.setdefault("dump_header", ["prefrep"])
            parser = Printing(**kwargs)
            parser.add_argument("-c", "--config", action="config", help="A YAML file; several are merged in turn.")
            return parser

        def _trained(self) -> None:
            if self.config[self.subcommand].ckpt_path is None:
                raise ConfigError(
                    f"bin/prefrep {self.subcommand} needs a trained model: name a checkpoint with --ckpt_path; an exported folder is "
                    "evaluated by bin/eval and read by bin/score"
                )

        before_validate = before_test = _trained

        def _run_subcommand(self, subcommand: str) -> None:
            """Runs a sub-command; a run folder has one writer, process 0 for all of a distributed run."""
            alone = subcommand == "fit" and self.trainer.is_global_zero and not cast(Any, self.trainer).fast_dev_run
            with writing(Path(self.trainer.default_root_dir), folder=True) if alone else nullcontext():
                super()._run_subcommand(subcommand)

        def before_predict(self) -> None:
            """Refuses a run whose predictions would be scattered over processes."""
            self._trained()
            if self.trainer.world_size > 1:
                raise ConfigError("bin/prefrep predict writes from one process; bin/score --workers scores with several")

        def after_predict(self) -> None:
            """Writes `predictions.jsonl`: the log-odds of each pair, one line each, in the order of the data.

            Records that were dropped while encoding have none. Of several responses, `pair` says which two are compared.
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

    try:
        CLI(args)
    except ValueError as error:  # jsonargparse wraps what a class says when it is made
        if (said := _said(error)) is None:
            raise
        raise said from None
    return 0


def run() -> None:
    """The installed command: errors in the input end in one sentence."""
    friendly.run(main)


def _said(error: BaseException) -> PrefrepError | None:
    """Our own error among those that led to another."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, PrefrepError):
        seen = seen.__cause__ or seen.__context__
    return seen


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
    run()
