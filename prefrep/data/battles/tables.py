"""Columns of CSV, Parquet and Arrow files, and of rows of JSON, as codes and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from prefrep.data.battles.columns import META, Coded, Columns, Names, Read, totalled
from prefrep.data.containers import TABLES
from prefrep.errors import DataError, first_line

_ARROW = (".parquet", ".arrow", ".feather")


def is_table(file: Path) -> bool:
    """Return whether a file is read by columns."""
    return file.name.endswith((*TABLES, *_ARROW))


def read_table(file: Path, wanted: Columns) -> Read:
    """Read the columns of battles from a table.

    Raises:
        DataError: It cannot be read, or has no battles.
    """
    import pyarrow

    try:
        if file.name.endswith(_ARROW):
            return _arrow(file, wanted)
        return _csv(file, wanted)
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: cannot be read as a table ({first_line(error)}); write it again") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or first_line(error)}); download or write it again") from None


def _csv(file: Path, wanted: Columns) -> Read:
    import pyarrow
    from pyarrow import csv

    def reader(**convert: Any) -> Any:
        kind = "gzip" if file.suffix == ".gz" else "zstd" if file.suffix == ".zst" else None
        stream = pyarrow.input_stream(str(file), compression=kind)
        parse = csv.ParseOptions(delimiter="\t" if ".tsv" in file.suffixes[-2:] else ",", newlines_in_values=True)
        options = csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=True, null_values=[""], **convert)
        return csv.open_csv(stream, parse_options=parse, convert_options=options)

    there = reader().schema.names
    names = Names.find(there, wanted, str(file))
    numbers = _numbers(names)
    types = {name: pyarrow.float64() if name in numbers else pyarrow.string() for name in names.all()}
    return _read(reader(include_columns=names.all(), column_types=types).read_all(), names)


def _arrow(file: Path, wanted: Columns) -> Read:
    import pyarrow
    from pyarrow import ipc, parquet

    if file.name.endswith(".parquet"):
        with parquet.ParquetFile(file) as opened:
            names = Names.find(_nested(opened.schema_arrow), wanted, str(file))
            whole = opened.read(columns=sorted({name.split(".")[0] if name.startswith(META) else name for name in names.all()}))
    else:
        with pyarrow.memory_map(str(file)) as source:
            magic = source.read(6) == b"ARROW1"
            source.seek(0)
            whole = ipc.open_file(source).read_all() if magic else ipc.open_stream(source).read_all()
            names = Names.find(_nested(whole.schema), wanted, str(file))
    for name in names.all():
        if name.startswith(f"{META}."):
            import pyarrow.compute as pc

            whole = whole.append_column(name, pc.struct_field(whole[META], name.removeprefix(f"{META}.")))
    return _read(whole, names)


def _nested(schema: Any) -> list[str]:
    import pyarrow

    inside = [
        f"{META}.{each.name}" for field in schema if field.name == META and pyarrow.types.is_struct(field.type) for each in field.type
    ]
    return [*schema.names, *inside]


def _numbers(names: Names) -> set[str]:
    return {*chain(*names.features.values()), *(each for each in (names.weight, names.first) if each)}


def _read(table: Any, names: Names) -> Read:
    numbers = _numbers(names)
    texts = {name: _coded(table[name]) for name in names.all() if name not in numbers}
    return Read(names, texts, {name: _floats(table[name]) for name in numbers})


def _coded(column: Any) -> Coded:
    import pyarrow
    import pyarrow.compute as pc

    if pyarrow.types.is_nested(column.type):  # such as a list that names a judge and its prompt
        column = pyarrow.array([None if each is None else _flat(each) for each in column.to_pylist()], pyarrow.string())
    if pyarrow.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks() if not pyarrow.types.is_dictionary(column.type) else column.unify_dictionaries().combine_chunks()
    if not pyarrow.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    if pyarrow.types.is_string(column.dictionary.type) or pyarrow.types.is_large_string(column.dictionary.type):
        return Coded(codes, tuple(column.dictionary.to_numpy(zero_copy_only=False)))
    return _unique(Coded(codes, tuple(_flat(each) for each in column.dictionary.to_pylist())))


def _unique(column: Coded) -> Coded:
    """Merge texts that are equal once written alike, such as 1 and 1.0."""
    union = {name: i for i, name in enumerate(dict.fromkeys(column.names))}
    if len(union) == len(column.names):
        return column
    return Coded(np.array([*(union[name] for name in column.names), -1])[column.codes], tuple(union))


def _flat(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "_".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _floats(column: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        return np.array([totalled(each) for each in column.to_pylist()])
    return np.asarray(column.cast(pyarrow.float64()).to_numpy(), dtype=np.float64)


def of_rows(rows: Sequence[Mapping[str, Any]], wanted: Columns, file: str) -> Read:
    """Read the columns of battles from rows, with nulls where a row lacks one.

    Raises:
        DataError: They are no battles, or a number is none.
    """
    there = list(dict.fromkeys(key for row in rows for key in row))
    inside = dict.fromkeys(f"{META}.{key}" for row in rows if isinstance(row.get(META), Mapping) for key in row[META])
    names = Names.find([*there, *inside], wanted, file)
    numbers, texts, counted = _numbers(names), dict[str, Coded](), dict[str, Any]()
    for name in names.all():
        values = [_inside(row, name) for row in rows]
        if name in numbers:
            try:
                counted[name] = np.array([totalled(each) for each in values])
            except (TypeError, ValueError):
                raise DataError(f"{file}: the column {name} must hold numbers") from None
        else:
            place: dict[str, int] = {}
            codes = [-1 if each is None or each == "" or each != each else place.setdefault(_flat(each), len(place)) for each in values]
            texts[name] = Coded(np.array(codes, dtype=np.int64), tuple(place))
    return Read(names, texts, counted)


def _inside(row: Mapping[str, Any], name: str) -> Any:
    if name in row or not name.startswith(f"{META}."):
        return row.get(name)
    found = row.get(META)
    return found.get(name.removeprefix(f"{META}.")) if isinstance(found, Mapping) else None
