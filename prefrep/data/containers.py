"""File types: rows of JSON lines, JSON lists, tables, Parquet, Arrow and text, with one sentence for each kind of damage."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from prefrep.data.turns import kind, parsed_json
from prefrep.errors import DataError, RecordError, first_line

Row = dict[str, Any]
Found = Iterator[tuple[Row | RecordError, str]]
Read = Iterator[tuple[Any, str]]

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet", ".arrow", *TABLES)
PROMPTS = ".txt"  # one prompt per line; ignored in folders, which can hold notes beside the data
DEPTH = 100  # nesting depth of lists and objects; readers of rows recurse
_TEXTS = re.compile(r"prompt|chosen|rejected|reject|completion(_[ab])?|response(_?\w)?|output_[12]|answer(_?\d)?|human_ref_[AB]")
_TURN = {"role", "from", "response"}  # of messages, ShareGPT's turns, and the official GPM's responses
_PYTHON = re.compile(r"\[?\{'(role|content|from|value)': ")
_AS_JSON = "write such cells with json.dumps, or use JSON lines or Parquet"
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]")


def rows_of(file: Path) -> Found:
    """Yield the rows of a file; a broken row is a RecordError among them.

    Raises:
        DataError: The file cannot be read, is damaged as a whole, or holds no rows.
    """
    if not file.name.endswith((*SUFFIXES, PROMPTS)):
        raise DataError(f"{file}: unknown file type '{file.suffix}'; known: {', '.join((*SUFFIXES, PROMPTS))}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty")
    number = 0
    try:
        for row, place in _reader(file.name)(file):
            number += 1
            if not isinstance(row, (dict, RecordError)):
                row = RecordError(place, f"a row must be an object {{...}}, found {kind(row)}")
            yield row, place
    except EOFError:
        raise DataError(f"{file}: the compressed file is truncated after row {number}; download or write it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{file}: not a valid gzip file ({error}); download it again, or remove .gz from the name of an uncompressed file"
        ) from None
    except OSError as error:
        what = f"not a valid {file.suffix} file" if error.errno is None else "cannot be read"  # errors of Arrow have no errno
        raise DataError(f"{file}: {what} ({error.strerror or first_line(error)}); download or write it again") from None
    if not number:
        raise DataError(f"{file}: the file holds no rows")


def _reader(name: str) -> Callable[[Path], Read]:
    name = name.removesuffix(".gz").removesuffix(".zst")
    return {".parquet": _parquet, ".arrow": _arrow, ".csv": _table, ".tsv": _table, PROMPTS: _prompts}.get(Path(name).suffix, _json)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if file.suffix == ".gz":
        with gzip.open(file) as lines:
            yield cast(IO[bytes], lines)
    elif file.suffix == ".zst":
        import pyarrow

        with pyarrow.input_stream(str(file), compression="zstd") as stream:
            yield cast(IO[bytes], io.BufferedReader(stream, 1 << 20))
    else:
        with file.open("rb") as plain:
            yield plain


def _prompts(file: Path) -> Read:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file}:{number}"
            try:
                yield {"prompt": line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")}, place
            except UnicodeDecodeError:
                yield _not_utf8(place), place


def _not_utf8(place: str) -> RecordError:
    return RecordError(place, "the line is not UTF-8 text", "convert the file to UTF-8")


# ---- JSON


def _json(file: Path) -> Read:
    """Yield the rows of JSON lines, or of one list in a .json file."""
    with _opened(file) as lines:
        if Path(file.name.removesuffix(".gz").removesuffix(".zst")).suffix != ".json":
            yield from _json_lines(file, lines)
            return
        head = [next(lines, b"")]
        while head[-1] and not head[-1].removeprefix(b"\xef\xbb\xbf").strip():
            head.append(next(lines, b""))
        begin = head[-1].removeprefix(b"\xef\xbb\xbf").lstrip()
        if not begin.startswith(b"[") and isinstance(parsed_json(begin.decode("utf-8", "replace")), dict):
            following = next(lines, b"")
            if following.strip():
                yield from _json_lines(file, chain(head, [following], lines))
                return
            head.append(following)
        content = b"".join([*head, *lines])
        if begin.startswith(b"["):
            yield from _json_list(file, content)
        elif (wrapped := _wrapped(content)) is not None:
            yield from _items(file, wrapped, content)
        else:
            yield from _json_lines(file, io.BytesIO(content))


def _json_lines(file: Path, lines: Iterable[bytes]) -> Read:
    for number, line in enumerate(lines, start=1):
        place = f"{file}:{number}"
        try:
            content = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield _not_utf8(place), place
            continue
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            remedy = "each line must be one object" if file.suffix != ".json" else "a .json file must be a list, or one object per line"
            yield RecordError(place, f"broken JSON: {error.msg} at character {error.colno}", remedy), place
        except (ValueError, RecursionError) as error:
            yield RecordError(place, *_too_much(error)), place
        else:
            yield _whole(row, place, line), place


def _too_much(error: Exception) -> tuple[str, str]:
    """Return problem and remedy of JSON that is valid but not accepted."""
    if isinstance(error, RecursionError):
        return "its lists and objects are nested too deeply", f"no preference format nests deeper than {DEPTH}"
    return "a number has too many digits", "write it as text, or remove it"


def _json_list(file: Path, content: bytes) -> Read:
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text; convert it to UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: broken JSON: {error.msg} at character {error.colno}; the file must be one list") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {'; '.join(_too_much(error))}") from None
    yield from _items(file, items, content)


def _items(file: Path, items: list[Any], content: bytes) -> Read:
    for number, item in enumerate(items, start=1):
        place = f"{file}:{number}"
        yield _whole(item, place, content), place


def _wrapped(content: bytes) -> list[Any] | None:
    """Return the rows of `{"data": [...]}`: an object with one list of objects under any name; None: it is not of this form."""
    try:
        whole = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value and all(isinstance(each, dict) for each in value)]
    rest = [value for value in whole.values() if isinstance(value, list | dict)]
    # A single row can have conversations, whose turns have roles.
    turns = any({"role", "from"} & each.keys() for value in lists for each in value[:1])
    return lists[0] if len(lists) == 1 and len(rest) <= 2 and not turns and not _is_row(whole) else None


def _is_row(value: Mapping[str, Any]) -> bool:
    return bool({"prompt", "instruction", "chosen", "rejected", "conversations", "question", "info", "context"} & value.keys())


def _whole(row: Any, place: str, content: bytes) -> Any:
    """Return the row, or an error if it nests too deeply or a text has a lone surrogate, which no tokenizer can read."""
    if content.count(b"[") + content.count(b"{") > DEPTH and _deeper_than(row, DEPTH):
        return RecordError(place, *_too_much(RecursionError()))
    if not _HALVES.search(content):
        return row
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return RecordError(place, f"half a character ({half!a}, a lone surrogate) occurs in a text", "fix the program that wrote the file")
    return row


def _deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [inner for each in level if isinstance(each, dict | list) for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return True


# ---- tables


def _table(file: Path) -> Read:
    """Yield the rows of a CSV or TSV file with a header.

    Empty cells are null. Cells with JSON become objects, or lists of objects or of numbers; those of prompts and responses only if they are
    turns, since an answer can be JSON. Turns in Python's notation, which pandas writes, are an error: they would be read as a text.
    """
    csv.field_size_limit(1 << 30)
    with _opened(file) as opened:
        lines = io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
        table = csv.reader(lines, dialect="excel-tab" if ".tsv" in file.suffixes[-2:] else "excel", strict=True)
        try:
            header = next(table, [])
            if len(set(header)) < len(header) or "" in header:
                raise DataError(f"{file}: the columns need distinct names (found: {', '.join(header)}); the first line must be a header")
            while True:
                place = f"{file}:{table.line_num + 1}"
                try:
                    cells = next(table, None)
                except csv.Error as error:
                    yield RecordError(place, f"broken table: {error}", "quote cells that hold quotes or line breaks"), place
                    continue
                if cells is None:
                    return
                if not cells:
                    continue
                if len(cells) != len(header):
                    problem = f"the row has {len(cells)} cells and the header {len(header)}"
                    yield RecordError(place, problem, "quote cells that hold the separator"), place
                    continue
                row = {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}
                if pythonic := [name for name, cell in row.items() if isinstance(cell, str) and _PYTHON.match(cell)]:
                    yield RecordError(place, f"'{pythonic[0]}' holds messages in Python's notation, not in JSON", _AS_JSON), place
                    continue
                yield row, place
        except UnicodeDecodeError:
            raise DataError(f"{file}: not UTF-8 text; convert it to UTF-8") from None


def _cell(name: str, cell: str) -> Any:
    if cell.startswith(("[", "{")):
        value = parsed_json(cell)
        items = value if isinstance(value, list) else [value]
        texts = _TEXTS.fullmatch(name) is not None
        objects = all(isinstance(each, dict) and (not texts or _TURN & each.keys()) for each in items)
        numbers = not texts and isinstance(value, list) and all(isinstance(each, int | float) for each in items)
        if items and (objects or numbers):
            return value
    return cell or None


# ---- Arrow


def _parquet(file: Path) -> Read:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield from _batches(file, table.iter_batches(batch_size=1024))
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: not a valid Parquet file ({first_line(error)}); download it again") from None


def _arrow(file: Path) -> Read:
    """Yield the rows of an Arrow stream, which `datasets` writes, or of an Arrow file (Feather 2)."""
    import pyarrow
    from pyarrow import ipc

    try:
        with pyarrow.memory_map(str(file)) as source:
            whole = source.read(6) == b"ARROW1"
            source.seek(0)
            if whole:
                opened = ipc.open_file(source)
                yield from _batches(file, (opened.get_batch(i) for i in range(opened.num_record_batches)))
            else:
                yield from _batches(file, ipc.open_stream(source))
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: not a valid Arrow file ({first_line(error)}); write it again") from None


def _batches(file: Path, batches: Iterable[Any]) -> Read:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):
            for row in batch.slice(start, 1024).to_pylist():
                number += 1
                yield row, f"{file}:{number}"
