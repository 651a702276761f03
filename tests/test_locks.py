"""One writer per file or folder, whoever starts at once and whoever has died."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefrep.locks import writing

HOLDER = """
import sys, time
from pathlib import Path
from prefrep.locks import writing
try:
    with writing(Path(sys.argv[1]), folder=len(sys.argv) > 2):
        print("mine", flush=True)
        time.sleep(60)
except BlockingIOError as error:
    print(error.strerror, flush=True)
"""


def start(path: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(path), *more], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("folder", [False, True])
def test_the_second_writer_learns_who_the_first_is(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / ("run" if folder else "scores.jsonl")
    holder = start(path, *(["folder"] if folder else []))
    assert first_line(holder) == "mine"
    with pytest.raises(BlockingIOError) as refused, writing(path, folder=folder):
        pass
    who = (
        rf"process {holder.pid} on {re.escape(socket.gethostname())} \(since \d{{4}}-.*: -c .*{path.name}.*\) is writing there; wait for it"
    )
    assert re.match(who, refused.value.strerror or "") and refused.value.filename == str(path)
    end(holder)
    with writing(path, folder=folder):  # its owner is dead
        pass
    assert [file.name for file in tmp_path.rglob("*")] == (["run"] if folder else []), "nothing is left behind"


def test_other_files_are_free(tmp_path: Path) -> None:
    with writing(tmp_path / "a.jsonl"), writing(tmp_path / "b.jsonl"), writing(tmp_path / "c", folder=True):
        pass


def test_of_twenty_starts_at_once_one_wins(tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.lock").touch()
    about = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "long ago", "command": "dead"}  # above the largest pid
    (tmp_path / ".out.jsonl.lock.owner").write_text(json.dumps(about))
    processes = [start(tmp_path / "out.jsonl") for _ in range(20)]
    lines = [first_line(process) for process in processes]
    winner = [process.pid for process, line in zip(processes, lines, strict=True) if line == "mine"]
    end(*processes)
    assert len(winner) == 1 and sum(f"process {winner[0]} on" in line for line in lines) == 19


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    """As data workers do for a few seconds after their trainer was killed."""
    code = HOLDER.replace('print("mine", flush=True)', "import os\n        os.write(1, f'{os.fork()}\\n'.encode())")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x.jsonl")], stdout=subprocess.PIPE, text=True)
    child = max(int(first_line(holder)), int(first_line(holder)))
    holder.kill()
    holder.wait()
    try:
        before = time.monotonic()
        with writing(tmp_path / "x.jsonl"):
            assert time.monotonic() - before < 5
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        end(holder)


def test_a_lock_of_another_host_is_only_removed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `flock`, as on some network storage: the existence of the file is the lock."""
    import filelock

    monkeypatch.setattr("prefrep.locks.FileLock", filelock.SoftFileLock)
    lock = tmp_path / ".x.jsonl.lock"
    lock.write_text("17\nelsewhere\n")
    about = {"pid": 17, "host": "elsewhere", "since": "2026-01-01 00:00:00", "command": "prefrep fit"}
    lock.with_name(lock.name + ".owner").write_text(json.dumps(about))
    with (
        pytest.raises(BlockingIOError, match=r"process 17 on elsewhere .*if it is gone, delete .*\.x\.jsonl\.lock"),
        writing(tmp_path / "x.jsonl"),
    ):
        pass
    lock.write_text(f"{2**22 + 1}\n{socket.gethostname()}\n")
    with writing(tmp_path / "x.jsonl"):
        pass


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("thesis")
    with pytest.raises(NotADirectoryError), writing(tmp_path / "run", folder=True):
        pass
