"""Rows of files, folders, what `datasets.save_to_disk` wrote, and hub datasets, each row with its location.

Kinds of files: JSON lines, JSON lists, `{"data": [rows]}`, CSV and TSV with a header, each also compressed (.gz, .zst); Parquet; Arrow;
text files with one prompt per line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from prefrep.data.containers import PROMPTS, SUFFIXES, TABLES, Found, Row, rows_of
from prefrep.disk import expanded
from prefrep.errors import DataError, RecordError, first_line

__all__ = ("PROMPTS", "ROLES", "SUFFIXES", "Found", "Row", "files_of", "parts")

ROLES = {"train": "train", "val": "validation", "test": "test", "predict": ""}  # the split that each dataset of a DataModule reads
_HUB = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<config>[\w.-]+))?(?::(?P<split>\S+))?")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}


def files_of(path: str | Path, split: str | None = None, role: str = "") -> list[Path]:
    """Return the local files of a path; none for a hub dataset. Arguments and errors as in `parts`."""
    local = expanded(path)
    if local.is_dir():
        return _files(local, split, role)
    return [local] if local.is_file() else []


def parts(path: str | Path, split: str | None, streaming: bool, role: str = "") -> Iterator[tuple[str, Found]]:
    """Yield the files of a source, or its hub dataset, with their rows; a broken row is a RecordError among them.

    Args:
        path: A file, a folder or a hub id.
        split: Split of a hub dataset, or of a folder whose sub-folders or file names are splits. None: that of `role`.
        streaming: Read a hub dataset while it downloads.
        role: Purpose of the data: `train`, `validation`, `test`, which is the default split. Empty: `train` for hub datasets, and an error
            for a folder of several splits.

    Raises:
        DataError: The source cannot be read or is empty.
    """
    text, local = str(path), expanded(path)
    if local.is_dir():
        for file in _files(local, split, role):
            yield str(file), rows_of(file)
    elif local.exists():
        yield text, rows_of(local)
    elif (hub := _HUB.fullmatch(text)) and not text.endswith((*SUFFIXES, PROMPTS)):
        yield text, _hub_rows(hub["id"], hub["config"], hub["split"] or split or role or "train", streaming)
    else:
        raise DataError(f"{text}: no such file or folder; hub datasets are written owner/name")


def _files(folder: Path, split: str | None, role: str) -> list[Path]:
    named = _saved(folder) or _named(folder)
    splits = sorted({name for name in named.values() if name})
    if split is None and len(splits) < 2:
        return list(named)
    wanted = split or role
    if wanted not in splits:
        wanted = _SPLITS.get(wanted, wanted)
    if wanted not in splits:
        if split is None and not role:
            raise DataError(f"{folder}: the folder holds several splits ({', '.join(splits)}); name one file, or one folder in it")
        if not splits:
            return list(named)
        raise DataError(f"{folder}: no file for split '{wanted}' (found: {', '.join(splits)}); set split, or name one file")
    # Files without a split belong to `train` alone, so that no file is in two splits.
    return [file for file, name in named.items() if name == wanted or (name is None and wanted == "train")]


def _named(folder: Path) -> dict[Path, str | None]:
    """Return the data files of a folder with their splits. Tables count where there is nothing else: notes beside data are often tables."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES) and not f.name.startswith("."))
    files = [f for f in files if not f.name.endswith(TABLES)] or files
    if not files:
        raise DataError(f"{folder}: the folder holds no {', '.join(SUFFIXES)}")
    return {file: _split_of(file.relative_to(folder)) for file in files}


def _saved(folder: Path) -> dict[Path, str | None]:
    """Return the files that `datasets.save_to_disk` wrote with their splits; empty: it did not write this folder.

    Raises:
        DataError: A file of the data set is missing or damaged.
    """
    try:
        if (folder / "dataset_dict.json").is_file():
            splits: list[str] = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            return {file: split for split in splits for file in _saved(folder / split)}
        if not ((folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()):
            return {}
        listed = json.loads((folder / "state.json").read_text())["_data_files"]
        files: dict[Path, str | None] = {folder / each["filename"]: None for each in listed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: not a complete folder of save_to_disk ({first_line(error)}); save it again") from None
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: missing, though state.json beside it names it; save the dataset again")
    return files


def _split_of(file: Path) -> str | None:
    """Return the split that a parent folder is named after, or else the one that the file name begins with."""
    above = [_SPLITS[part.lower()] for part in file.parts[:-1] if part.lower() in _SPLITS]
    return above[0] if above else _SPLITS.get(re.split(r"[^a-z]", file.name.lower())[0])


def _hub_rows(name: str, config: str | None, split: str, streaming: bool) -> Found:
    import datasets

    number = 0
    try:
        data = datasets.load_dataset(name, config, split=split, streaming=streaming)
        for number, row in enumerate(data, start=1):
            yield dict(row), f"{name}[{split}]:{number}"
    except (RecordError, DataError):
        raise
    except Exception as error:  # the errors of `datasets` have no common base class
        raise DataError(f"{name}: not a file or folder here, and the hub could not give it ({first_line(error)})") from error
    if not number:
        raise DataError(f"{name}[{split}]: the dataset holds no rows")
