"""Atomic replacement of files, and truncation of partly written lines."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from prefrep.errors import DataError
from prefrep.room import saving


def claim(out: Path, note: Path, about: Mapping[str, Any], remedy: str) -> None:
    """Write beside an output what it follows from; an output of something else is left alone.

    Args:
        out: The output.
        note: The file beside it.
        about: What it follows from, as plain data.
        remedy: What to do about an output that is in the way.

    Raises:
        DataError: The output is there and follows from something else, or it is not known from what.
    """
    if out.exists() and out.stat().st_size:
        if not note.exists():
            raise DataError(f"{out}: it is not known what wrote it (no {note} beside it); {remedy}")
        try:
            before = dict(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise DataError(f"{note}: it does not say what wrote {out}; {remedy}") from None
        for what, now in json.loads(json.dumps(about)).items():
            if (then := before.get(what)) != now:
                values = f", {then}, and now it is {now}" if isinstance(then, str) and isinstance(now, str) else ""
                raise DataError(f"{out}: begun with other {what}{values}; {remedy}")
    replace_text(note, json.dumps(about, indent=1) + "\n")


def piece(file: IO[bytes], size: int, begin: int) -> bytes:
    """Return bytes of a temporary file, whatever its position. Raises DataError: it was cut off, as by a full disk."""
    found = os.pread(file.fileno(), size, begin)
    if len(found) != size:
        raise DataError(f"a temporary file in {tempfile.gettempdir()} was cut off; run the same command again")
    return found


def expanded(path: str | Path) -> Path:
    """Return a path with `~` resolved where there is such a user, who may not exist: `Path.expanduser` raises RuntimeError then."""
    return Path(os.path.expanduser(path))


def replace_text(path: Path, text: str) -> None:
    """Replace a text file atomically, so that a killed process leaves the old or the new content; creates the folder if needed."""
    _replace(path, [text], len(text))


def _replace(path: Path, parts: Iterable[str], needs: int | None = None) -> None:
    draft = path.with_name(path.name + ".part")
    with saving(path, needs):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = draft.open("w", encoding="utf-8")
    try:
        for part in parts:  # which may be read from other disks
            with saving(path, needs):
                file.write(part)
        with saving(path, needs):
            file.close()
            os.replace(draft, path)
    except BaseException:  # of no use, and its room may be needed
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def replace_path(draft: Path, path: Path) -> None:
    """Move a finished file or folder to its place, over an older one, so that a killed process leaves one of them whole.

    A folder cannot be replaced in one step: the older one is called `NAME-0.SUFFIX` until the new one stands.
    """
    if draft.is_file():
        with draft.open("rb") as file:
            os.fsync(file.fileno())
    aside = path.with_name(f"{path.stem}-0{path.suffix}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    os.replace(draft, path)
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)


def replace_lines(path: Path, rows: Iterable[object]) -> None:
    """Replace a JSONL file atomically, one row per line, which are taken one by one; see `replace_text`."""
    _replace(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replace_json(path: Path, content: object, sort_keys: bool = False) -> None:
    """Write a JSON file in one step; see `replace_text`."""
    replace_text(path, json.dumps(content, indent=4, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n")


def keep_lines(path: Path, count: int | None = None) -> None:
    """Truncate a file after its first `count` lines; None: after the last complete line, dropping what a killed process left unfinished.

    A line is complete if it ends in a line break. A missing file stays missing.
    """
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(sum(len(line) for line in islice(file, count) if line.endswith(b"\n")))
