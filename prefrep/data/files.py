"""Rows of JSONL(.gz), JSON, Parquet, text files with one prompt per line, folders and hub datasets, each with its location."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefrep.data.fields import kind
from prefrep.errors import DataError, RecordError

Row = dict[str, Any]
Found = Iterator[tuple[Row | RecordError, str]]

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
PROMPTS = ".txt"  # one prompt per line; ignored in folders, where notes may lie beside the data
ROLES = {"train": "train", "val": "validation", "test": "test", "predict": ""}  # the split that each dataset of a DataModule reads
_HUB = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<config>[\w.-]+))?(?::(?P<split>\S+))?")
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}


def files_of(path: str | Path, split: str | None = None, role: str = "") -> list[Path]:
    """Return the local files of a path; none for a hub dataset. Arguments and errors as in `parts`."""
    local = Path(path).expanduser()
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
    text, local = str(path), Path(path).expanduser()
    if local.is_dir():
        for file in _files(local, split, role):
            yield str(file), _rows_of(file)
    elif local.exists():
        yield text, _rows_of(local)
    elif (hub := _HUB.fullmatch(text)) and not text.endswith((*SUFFIXES, PROMPTS)):
        yield text, _hub_rows(hub["id"], hub["config"], hub["split"] or split or role or "train", streaming)
    else:
        raise DataError(f"{text}: no such file or folder; hub datasets are written owner/name")


def _files(folder: Path, split: str | None, role: str) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES) and not f.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: the folder holds no {', '.join(SUFFIXES)}")
    named = {file: _split_of(file.relative_to(folder)) for file in files}
    splits = sorted({name for name in named.values() if name})
    if split is None and len(splits) < 2:
        return files
    wanted = _SPLITS.get(split or role, split or role)
    if wanted not in splits:
        if split is None and not role:
            raise DataError(f"{folder}: the folder holds several splits ({', '.join(splits)}); name one file, or one folder in it")
        if not splits:
            return files
        raise DataError(f"{folder}: no file for split '{wanted}' (found: {', '.join(splits)}); set split, or name one file")
    # Files without a split belong to `train` alone, so that no file is in two splits.
    return [file for file in files if named[file] == wanted or (named[file] is None and wanted == "train")]


def _split_of(file: Path) -> str | None:
    """Return the split that a parent folder is named after, or else the one that the file name begins with."""
    above = [_SPLITS[part.lower()] for part in file.parts[:-1] if part.lower() in _SPLITS]
    return above[0] if above else _SPLITS.get(re.split(r"[^a-z]", file.name.lower())[0])


def _rows_of(file: Path) -> Found:
    if not file.name.endswith((*SUFFIXES, PROMPTS)):
        raise DataError(f"{file}: unknown kind of file '{file.suffix}'; known: {', '.join((*SUFFIXES, PROMPTS))}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty")
    number = 0
    read = {".parquet": _parquet, PROMPTS: _prompts}.get(file.suffix, _json)
    try:
        for row, place in read(file):
            number += 1
            if not isinstance(row, (dict, RecordError)):
                row = RecordError(place, f"a row must be an object {{...}}, found {kind(row)}")
            yield row, place
    except EOFError:
        raise DataError(f"{file}: the compressed file breaks off after row {number}; download or write it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}: not a valid gzip file ({error}); download it again, or remove .gz from the name of a text") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    if not number:
        raise DataError(f"{file}: the file holds no rows")


def _prompts(file: Path) -> Iterator[tuple[Any, str]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file}:{number}"
            try:
                yield {"prompt": line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")}, place
            except UnicodeDecodeError:
                yield _not_utf8(place), place


def _not_utf8(place: str) -> RecordError:
    return RecordError(place, "the line is not UTF-8 text", "convert the file to UTF-8")


def _json(file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the rows of JSON lines, or of one list in a .json file."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        if file.name.endswith((".json", ".json.gz")):
            begin = lines.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            lines.seek(0)
            if begin.startswith(b"["):
                yield from _json_list(file, lines.read())
                return
        for number, line in enumerate(lines, start=1):
            place = f"{file}:{number}"
            try:
                content = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if content.strip():
                    row = json.loads(content)
                    yield _whole(row, place) if _HALVES.search(line) else row, place
            except UnicodeDecodeError:
                yield _not_utf8(place), place
            except json.JSONDecodeError as error:
                remedy = "each line must be one object" if file.suffix != ".json" else "a .json file must be a list, or one object per line"
                yield RecordError(place, f"broken JSON: {error.msg} at character {error.colno}", remedy), place


def _json_list(file: Path, content: bytes) -> Iterator[tuple[Any, str]]:
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text; convert it to UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: broken JSON: {error.msg} at character {error.colno}; the file must be one list") from None
    halves = _HALVES.search(content)
    for number, item in enumerate(items, start=1):
        place = f"{file}:{number}"
        yield _whole(item, place) if halves else item, place


def _whole(row: Any, place: str) -> Any:
    """Return the row, or an error if a text has a lone surrogate, which JSON can encode and tokenizers cannot read."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return RecordError(place, f"half a character ({half!a}, a lone surrogate) stands in a text", "fix the program that wrote the file")
    return row


def _parquet(file: Path) -> Iterator[tuple[Any, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{file}:{number}"
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: not a valid Parquet file ({_first_line(error)}); download it again") from None


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
        raise DataError(f"{name}: not a file or folder here, and the hub could not give it ({_first_line(error)})") from error
    if not number:
        raise DataError(f"{name}[{split}]: the dataset holds no rows")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
