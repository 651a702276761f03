"""Signals that ask a program to stop: the first one is noted and obeyed at the next safe point, the second one kills."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: what SLURM sends ahead of a time limit


def name_of(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    return signal.Signals(number).name


class StopSignals:
    """Handlers of SIGTERM, SIGINT and SIGUSR1 that leave the time of stopping to the program.

    Args:
        notify: Called in the handler with each signal and whether it is a second one, for instance to forward it to child processes. It may
            raise.
        kill: Whether a second signal kills this process.
    """

    def __init__(self, notify: Callable[[int, bool], object] = lambda number, again: None, kill: bool = True) -> None:
        self._notify, self._kill = notify, kill
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Install the handlers, also over those that a library installed since the last call. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING:
            handler = signal.getsignal(number)
            if handler != self._note:
                self._before[number] = handler
                signal.signal(number, self._note)

    def before(self, number: signal.Signals) -> Any:
        """Return the handler that `listen` replaced."""
        return self._before.get(number)

    def close(self) -> None:
        """Put back the handlers that `listen` replaced, where they are still ours, and forget the signal."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._note:
                    signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        if not again:
            self.received = signal.Signals(number)
        self._notify(number, again)
        if again and self._kill:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
