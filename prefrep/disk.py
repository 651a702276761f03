"""Files that are there whole or not at all, and files of lines that grow."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in one step, so that a killed process leaves the old one or the new one; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


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
    """Writes a file of JSON lines in one step, one row a line; see `replace_text`."""
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def keep_lines(path: Path, count: int | None = None) -> None:
    """Cuts a file off behind its first `count` lines; None: behind its last whole line, without what a killed process wrote of the next.

    A line without a line break at its end is none. A file that is not there stays so.
    """
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(sum(len(line) for line in islice(file, count) if line.endswith(b"\n")))
