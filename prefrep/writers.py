"""Programs that write: one at a time per output, and stopped between batches when a signal asks for it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefrep.errors import Stopped
from prefrep.locks import writing
from prefrep.signals import StopSignals, name_of

P = ParamSpec("P")
R = TypeVar("R")
_running: tuple[StopSignals, Path] | None = None  # the program that listens to signals, and its output


def writes(option: str, *, folder: bool = False, stops: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a program that owns its output while it runs.

    Args:
        option: Parameter that names the output.
        folder: Whether the output is a folder.
        stops: Whether the program calls `leave` between batches and resumes from what is on disk. Signals are noted until then. A program
            without such points ends at the first signal.
    """

    def decorate(program: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(program)

        @wraps(program)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            place = Path(signature.bind(*args, **kwargs).arguments[option])
            with _new_folders_only_if_used(place if folder else place.parent), writing(place, folder=folder):
                if not stops:
                    return program(*args, **kwargs)
                with _listening(place):
                    return program(*args, **kwargs)

        return run

    return decorate


def is_asked_to_leave() -> bool:
    """Return whether a signal has asked the program to stop, so that nothing new should be begun before `leave`."""
    return _running is not None and _running[0].received is not None


def leave() -> None:
    """End the program here if a signal has asked for it. Call it where all that is finished is on disk.

    Raises:
        Stopped: A signal came; its exit code is 128 plus the signal's number.
    """
    if _running is None:
        return
    signals, place = _running
    if signals.received is not None:
        number = signals.received
        raise Stopped(f"stopped by {number.name}; {place} holds what is finished; to go on, run the same command", 128 + number)


@contextmanager
def _listening(place: Path) -> Iterator[None]:
    global _running
    before, signals = _running, StopSignals(_tell)
    signals.listen()
    _running = signals, place
    try:
        yield
    finally:
        _running = before
        signals.close()


def _tell(number: int, again: bool) -> None:
    if not again:  # not by print: the handler may have interrupted one
        text = f"\nprefrep: {name_of(number)}: stops after the present batch; a second signal stops at once\n"
        with suppress(OSError):
            os.write(2, text.encode())


@contextmanager
def _new_folders_only_if_used(folder: Path) -> Iterator[None]:
    """Remove the folders again that were made for a lock, where the program refused its options and wrote nothing."""
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # Path.exists raises below a closed folder
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for each in missing:
                each.rmdir()
