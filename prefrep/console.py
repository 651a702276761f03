"""What a person sees on the terminal: our log lines, and no warnings that only a developer of a library could act on."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
INTERVAL = 30.0  # seconds between two lines of progress


def quiet() -> None:
    """Filter library warnings that no user can act on, and print prefrep's log records on stderr.

    The command line and worker processes call it. A program that is called from Python leaves warnings and logging to the caller.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # Batches are trees, so Lightning warns about worker counts, and about its own use of jsonargparse and pytree.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*custom batch sampler `BatchOrder`.*")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")  # no validation data
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")  # `LanguageModule.resting`
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")  # frozen backbones, on purpose
    warnings.filterwarnings("ignore", module="jsonargparse")
    ours = logging.getLogger("prefrep")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    if not ours.handlers:
        ours.addHandler(_Stderr())
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch.trainer.connectors"):
        logging.getLogger(name).addFilter(_concerns_the_user)
    for name in ("httpx", "transformers", "datasets", "fsspec", "absl", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)


_listening: ContextVar[Callable[[int, float], object] | None] = ContextVar("listening", default=None)


@contextmanager
def listening(hear: Callable[[int, float], object]) -> Iterator[None]:
    """Hear inside the context what long work below tells of itself, see `tell`."""
    token = _listening.set(hear)
    try:
        yield
    finally:
        _listening.reset(token)


def tell(tokens: int, done: float) -> None:
    """Tell whoever shows progress, if anyone, how many tokens were written since the last time, and which share of the work is done."""
    if hear := _listening.get():
        hear(tokens, done)


def _concerns_the_user(record: logging.LogRecord) -> bool:
    """Drop what Lightning reports of every run: hardware that is not there, the seed, that it looks at the data."""
    routine = (
        "litlogger",
        "GPU available: False",
        "TPU available: False",
        "HPU available: False",
        "Seed set to",
        "Loading `train_dataloader`",
    )
    return not any(words in record.getMessage() for words in routine)


def progress(items: Iterable[Item], what: str, unit: str) -> Iterator[Item]:
    """Yield items under a progress bar; where nobody sees a bar, log a line every half minute.

    Args:
        items: The items.
        what: What is done to them.
        unit: What they are, in the plural.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, what, unit=f" {unit}", leave=False)
        return
    began = said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if (now := time.monotonic()) - said > INTERVAL:
            said = now
            log.info("%s: %s %s, %s per second", what, f"{number:,}", unit, f"{number / (now - began):,.0f}")


class _Stderr(logging.StreamHandler[Any]):
    """Writes to the current `sys.stderr`, so that captured output is captured."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        print(self.format(record), file=sys.stderr)
