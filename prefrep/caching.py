"""Location of caches, whose contents can always be recomputed, and folders of results that are kept by content."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

log = logging.getLogger(__name__)

UNUSED_DAYS = 30  # entries that nobody used for so long are deleted when another one is written
PRUNE_EVERY = 3600.0  # seconds; a process that keeps thousands of results would look through all of them for each
_KINDS = ("encoded", "features", "pairs", "first-answers", "verdicts", "demo")  # folders whose entries are named by digests
_MODEL = re.compile(r"(smollm2-135m|tiny-.+)-v\d+")  # folders of bundled models
_DIGEST = re.compile(r"[0-9a-f]{12,64}(\..*)?")
_ABOUT = "about.json"
_pruned: dict[Path, float] = {}  # when this process looked through a folder last


def cache_folder() -> Path:
    """Return `$PREFREP_CACHE`, or else `prefrep` in the user's cache folder."""
    chosen = os.environ.get("PREFREP_CACHE")
    return Path(chosen).expanduser() if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefrep"


class Kept(NamedTuple):
    """What lies in a folder of the cache.

    Args:
        size: Bytes.
        entries: Files and folders directly in it.
        used: When something in it was written or found last, seconds since 1970.
    """

    size: int
    entries: int
    used: float


def kinds() -> list[Path]:
    """Return the folders of the cache that prefrep has made. The cache folder may be one that others use, with folders of such names."""

    def ours(place: Path) -> bool:
        if _MODEL.fullmatch(place.name):
            return (place / "config.json").exists()
        return place.name in _KINDS and all(_DIGEST.fullmatch(each.name) or each.name.startswith(".") for each in place.iterdir())

    return [place for place in sorted(cache_folder().glob("*")) if place.is_dir() and ours(place)]


def kept(place: Path) -> Kept:
    """Return what lies in a folder of the cache; files that other programs delete meanwhile count or do not."""
    size, used, entries = 0, 0.0, 0
    for folder, folders, files in os.walk(place):  # which passes over what it cannot read
        if folder == str(place):
            entries = sum(not name.startswith(".") for name in (*folders, *files))
        for path, counts in ((folder, False), *((os.path.join(folder, name), True) for name in files)):
            with suppress(OSError):
                about = os.stat(path)
                size, used = size + about.st_size * counts, max(used, about.st_mtime)
    return Kept(size, entries, used)


def entry(folder: Path, about: Mapping[str, object]) -> Path:
    """Return the place of a result below a cache folder, whether it is there or not.

    Args:
        folder: Folder of all results of a kind.
        about: Everything that the result depends on, as plain data.
    """
    return folder / hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]


def find(folder: Path, about: Mapping[str, object]) -> Path | None:
    """Return the complete result in a cache; None: it is missing, or a file of it is missing or truncated. Arguments as in `entry`."""
    place = entry(folder, about)
    try:
        sizes = json.loads((place / _ABOUT).read_text(encoding="utf-8"))["files"]
        if any((place / name).stat().st_size != size for name, size in sizes.items()):
            raise ValueError("a file has another size")
        os.utime(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: damaged (%s); it is made anew", place, error)
        return None
    return place


def keep(folder: Path, about: Mapping[str, object], write: Callable[[Path], object]) -> Path:
    """Write a result to a cache, whole or not at all, and delete results that nobody used for a month.

    Args:
        folder: Folder of all results of a kind.
        about: Everything that the result depends on, as plain data.
        write: Writes the files of the result to an empty folder.

    Raises:
        OSError: The folder is not writable, or the disk is full.
    """
    place = entry(folder, about)
    draft = folder / f".{uuid4().hex}.part"
    draft.mkdir(parents=True)
    try:
        write(draft)
        sizes = {}
        for file in draft.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            sizes[file.name] = file.stat().st_size
        (draft / _ABOUT).write_text(json.dumps({"files": sizes, "about": about}, indent=1, default=str) + "\n", encoding="utf-8")
        if place.exists() and find(folder, about) is None:
            shutil.rmtree(place, ignore_errors=True)
        try:
            draft.rename(place)
        except OSError:
            if find(folder, about) is None:  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if (now := time.monotonic()) - _pruned.get(folder, -math.inf) >= PRUNE_EVERY:
        _pruned[folder] = now
        _prune(folder)
    return place


def _prune(folder: Path) -> None:
    for old in folder.iterdir():
        try:
            days = 1 if old.name.startswith(".") else UNUSED_DAYS  # drafts of killed processes
            if time.time() - old.stat().st_mtime > days * 24 * 3600:
                shutil.rmtree(old, ignore_errors=True)
        except OSError:  # another process deletes it
            continue
