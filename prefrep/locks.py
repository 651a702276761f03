"""One writer per output file or run folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prefrep.room import saving

log = logging.getLogger(__name__)

ORPHANS = 10.0  # seconds that children of a killed writer may take to notice its death


@contextmanager
def writing(path: Path, *, folder: bool = False, waits: bool = False) -> Iterator[None]:
    """Hold the right to write an output file or a run folder for the duration of a `with` block.

    The kernel drops the lock when its owner dies, so a lock never has to be removed by hand. On storage without `flock` (some NFS mounts)
    filelock falls back to a file whose existence is the lock: a dead owner on the same host is detected there too, one on another host is
    not, and the error names the file to delete.

    Args:
        path: The file or folder; missing folders are created.
        folder: Whether it is a folder.
        waits: Whether to wait for another writer, who is named in the log, and not to raise.

    Raises:
        BlockingIOError: Another process is writing there; its `strerror` says which, and what to do.
        NotADirectoryError: A file is where the folder should be.
    """
    file = path / ".lock" if folder else path.with_name(f".{path.name}.lock")
    try:
        with saving(path):
            file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(file.parent)) from None
    lock = FileLock(file, is_singleton=False, thread_local=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flock not supported")
        with saving(path):
            _acquire(lock, path, file, waits)
    owner = file.with_name(file.name + ".owner")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command}
    try:
        with saving(path):
            owner.write_text(json.dumps(about) + "\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # a folder that was deleted meanwhile
            owner.unlink()
            file.unlink()  # while it is held: whoever has it open already sees that it lost its name, and tries again
        lock.release()


def _acquire(lock: FileLock, path: Path, file: Path, waits: bool) -> None:
    end, told = time.monotonic() + ORPHANS, False
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            about = _owner(file)
            if waits and not told:
                log.warning("%s: %s; waiting for it", path, _who(about))
                told = True
            elif not waits and (not _is_dead(about) or time.monotonic() > end):
                raise BlockingIOError(errno.EAGAIN, _sentence(file, about), str(path)) from None
        time.sleep(0.1)


def _owner(file: Path) -> dict[str, str | int]:
    """Return what the owner wrote about itself, an empty dictionary while it has not."""
    for _ in range(20):
        with suppress(OSError, ValueError):
            about: dict[str, str | int] = json.loads(file.with_name(file.name + ".owner").read_text(encoding="utf-8"))
            return about
        time.sleep(0.05)
    return {}


def _is_dead(about: dict[str, str | int]) -> bool:
    if about.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _who(about: dict[str, str | int]) -> str:
    who = f"process {about['pid']} on {about['host']} (since {about['since']}: {about['command']})" if about else "another process"
    return f"{who} is writing there"


def _sentence(file: Path, about: dict[str, str | int]) -> str:
    remedy = "wait for it, stop it, or name another place"
    if about and about["host"] != socket.gethostname():
        remedy += f"; if it is gone, delete {file}"
    return f"{_who(about)}; {remedy}"
