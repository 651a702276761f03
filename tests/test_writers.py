"""Programs that write: one at a time, and a stop that is asked for comes behind a whole batch."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

import prefrep.writers
from prefrep.errors import Stopped, UsageError
from prefrep.locks import writing
from prefrep.signals import STOPPING
from prefrep.writers import leave, writes


@writes("out", stops=True)
def count(*, out: str, up_to: int, number: int = 0) -> int:
    """Write numbers; a signal comes in the middle of the third."""
    for each in range(up_to):
        if number and each == 2:
            os.kill(os.getpid(), number)
        with Path(out).open("a") as file:
            file.write(f"{each}\n")
        leave()
    return up_to


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_the_program_behind_the_batch(number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    out = tmp_path / "new" / "out.txt"
    with pytest.raises(Stopped, match=rf"^stopped by {number.name}; {out} holds what is finished; to go on, run the same command$") as stop:
        count(out=str(out), up_to=9, number=number)
    assert stop.value.code == 128 + number
    assert out.read_text() == "0\n1\n2\n" and [each.name for each in out.parent.iterdir()] == ["out.txt"]
    assert [signal.getsignal(each) for each in STOPPING] == before and prefrep.writers._running is None
    assert number.name in capfd.readouterr().err
    assert count(out=str(out), up_to=2) == 2, "the next call knows nothing of it"


def test_a_second_program_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with writing(out), pytest.raises(BlockingIOError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
        count(out=str(out), up_to=1)
    assert not out.exists()


def test_a_refused_call_leaves_no_folder(tmp_path: Path) -> None:
    @writes("out", folder=True)
    def refuse(out: str) -> None:
        raise UsageError("no")

    with pytest.raises(UsageError):
        refuse(str(tmp_path / "a" / "b"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError):
        refuse(str(tmp_path / "mine"))
    assert (tmp_path / "mine").is_dir()


def test_leaving_outside_of_a_program_does_nothing() -> None:
    leave()
