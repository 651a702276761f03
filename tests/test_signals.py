"""The first signal is noted, the second kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from prefrep.signals import STOPPING, StopSignals


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before, told = [signal.getsignal(each) for each in STOPPING], list[tuple[int, bool]]()
    signals = StopSignals(lambda which, again: told.append((which, again)))
    signals.listen()
    os.kill(os.getpid(), number)
    assert signals.received is number and told == [(number, False)]
    signals.close()
    assert [signal.getsignal(each) for each in STOPPING] == before and signals.received is None


def test_listening_again_takes_back_what_a_library_took() -> None:
    signals = StopSignals()
    signals.listen()
    before = signal.signal(signal.SIGTERM, theirs := lambda number, frame: None)
    signals.listen()
    assert signal.getsignal(signal.SIGTERM) == before and signals.before(signal.SIGTERM) is theirs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the library puts back what was there before it came
    signals.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("kill", "code"), [(True, -signal.SIGINT), (False, 7)])
def test_the_second_kills_but_for_processes_that_are_not_to_be(kill: bool, code: int) -> None:
    program = f"""
import os, signal, sys
from prefrep.signals import StopSignals
signals = StopSignals(kill={kill})
signals.listen()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(7 if signals.received is signal.SIGTERM else 1)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == code
