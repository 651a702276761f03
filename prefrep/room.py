"""Disks that are full and folders that cannot be written to: which path it is, how much is free, and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefrep.caching import cache_folder
from prefrep.errors import PrefrepError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def saving(path: Path, needs: int | None = None) -> Iterator[None]:
    """Say which path could not be written, how much room there is, and what to do, where a `with` block finds no room or no right.

    The operating system does not name the path of an open file, and libraries that write elsewhere first name a temporary one.

    Args:
        path: File or folder that is written.
        needs: Its size in bytes, where it is known.

    Raises:
        OSError: The disk is full or the folder cannot be written to; `strerror` is the sentence, `filename` the path.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number not in (*FULL, *CLOSED) or getattr(error, "explained", False):
            raise
        place, temporary, named = path, Path(tempfile.gettempdir()), error.filename if isinstance(error, OSError) else None
        if number in CLOSED and isinstance(named, str):
            place = Path(named)
        elif isinstance(named, str) and _below(named, temporary) and free(temporary) < free(path):
            place = temporary  # full, although the file belongs elsewhere
        told = OSError(number, explained(number, place, needs), str(place))
        told.explained = True  # type: ignore[attr-defined]
        raise told from error


def explained(number: int, path: Path, needs: int | None = None) -> str:
    """Return what is wrong with a path, and what to do about it.

    Args:
        number: The error's number, such as `errno.ENOSPC`.
        path: The path.
        needs: Bytes that are written, where it is known.
    """
    problem = os.strerror(number)
    if number in CLOSED:
        folder = _existing(path)
        return f"{problem}: {folder} cannot be written to; change its permissions, or {_elsewhere(path)}"
    if number not in FULL:
        return problem
    room = f"{size(free(path))} free" if number == errno.ENOSPC else f"{size(free(path))} free, and the quota is used up"
    missing = "" if needs is None else f", {size(needs)} needed"
    return f"{problem} ({room}{missing}); delete files there or {_elsewhere(path)}, then run the same command, which keeps what is finished"


def require(path: Path, needs: int, what: str, remedy: str) -> None:
    """Refuse work whose result would not find room.

    Args:
        path: Where the result will be written.
        needs: Its size in bytes, rather too small than too large.
        what: What it is.
        remedy: What to set to need less.

    Raises:
        PrefrepError: Less is free on that disk.
    """
    room = free(path)
    if room < needs:
        raise PrefrepError(
            f"{path}: {what} needs {size(needs)} and its disk has {size(room)} free; "
            f"delete {size(needs - room)} there, {_elsewhere(path)}, or {remedy}"
        )


def free(path: Path) -> int:
    """Return the bytes that a user may still write at a path, which need not exist."""
    return shutil.disk_usage(_existing(path)).free


def size(count: int) -> str:
    """Return bytes for people: `3.0 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def _number(error: Exception) -> int | None:
    """Return the number of an error of the operating system, also where a library in C, C++ or Rust wraps it in another class."""
    if isinstance(error, OSError):  # NumPy: "9 requested and 4 written", without a number
        return errno.ENOSPC if error.errno is None and "requested and" in str(error) else error.errno
    if isinstance(error, PrefrepError):  # which may quote anything
        return None
    if isinstance(error, sqlite3.Error):
        return errno.ENOSPC if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL else None
    if match := re.search(r"os error (\d+)|Os \{ code: (\d+)", str(error)):  # safetensors
        return int(match[1] or match[2])
    return errno.ENOSPC if "file write failed" in str(error) or "No space left on device" in str(error) else None  # PyTorch


def _existing(path: Path) -> Path:
    absolute = Path(os.path.expanduser(path)).absolute()
    return next(each for each in (absolute, *absolute.parents) if os.path.isdir(each))  # Path.is_dir raises below a closed folder


def _elsewhere(path: Path) -> str:
    """Return how to write to another disk."""
    if _below(path, cache_folder()):
        return "set --data.cache or PREFREP_CACHE to another disk"
    if _below(path, Path(tempfile.gettempdir())):
        return "set TMPDIR to a folder on another disk"
    return "write to another disk"


def _below(path: str | Path, folder: Path) -> bool:
    return Path(os.path.expanduser(path)).absolute().is_relative_to(Path(os.path.expanduser(folder)).absolute())
