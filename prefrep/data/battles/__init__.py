"""Battles of systems from files: tables of two systems and a winner, and the files of AlpacaEval, Arena-Hard and MT-bench."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefrep.battles import Battle, Battles
from prefrep.data import files
from prefrep.data.battles import tables
from prefrep.data.battles.columns import CROWD, Columns, of_columns
from prefrep.data.battles.written import NESTED
from prefrep.data.containers import rows_of
from prefrep.errors import DataError, RecordError

__all__ = ("Columns", "Found", "gathered", "read")


class Found(NamedTuple):
    """What was read.

    Args:
        battles: Those with a verdict.
        counts: `rows`, `no verdict`, `both bad`, `same system` (left out), `judges merged`, `systems left out`
            (in no row with a verdict).
        formats: Name of the format of each file.
    """

    battles: Battles
    counts: Counter[str]
    formats: dict[str, str]


def read(paths: Sequence[str], columns: Columns | None = None) -> Found:
    """Read battles from files or folders.

    A row without a verdict (an empty winner, an error) is counted, never a tie. A file without a column of judges is one judge, named like
    the file.

    Args:
        paths: Files or folders: CSV, TSV, JSON, JSON lines (each also .gz and .zst), Parquet, Arrow.
        columns: Columns that the names do not tell.

    Raises:
        DataError: A file cannot be read, names no battles, or a winner is unknown.
    """
    wanted, counts = columns or Columns(), Counter[str]()
    parts: list[Battles] = []
    formats: dict[str, str] = {}
    for path in paths:
        found = files.files_of(path)
        if not found:
            raise DataError(f"{path}: no such file or folder; name files of battles: two systems and a winner in each row")
        for file in found:
            part, formats[str(file)] = _read_file(file, wanted, counts)
            parts.append(part)
    battles = joined(parts)
    counts["systems left out"] = len(battles.systems) - len((battles := battles.met()).systems)
    if not len(battles):
        raise DataError(f"{', '.join(paths)}: no row has a verdict ({counts['no verdict']:,} rows without one); nothing can be ranked")
    return Found(battles, counts, formats)


def _read_file(file: Path, wanted: Columns, counts: Counter[str]) -> tuple[Battles, str]:
    name = file.name.split(".")[0]
    if tables.is_table(file):
        return of_columns(tables.read_table(file, wanted), str(file), name, counts), "columns"
    rows: list[dict[str, Any]] = []
    for row, _ in rows_of(file):
        if isinstance(row, RecordError):
            raise DataError(str(row))
        rows.append(row)
    for title, (fits, convert) in NESTED.items():
        if fits(rows[0]):
            return _of_rows(rows, convert, file, name, counts), title
    return of_columns(tables.of_rows(rows, wanted, str(file)), str(file), name, counts), "columns"


def _of_rows(
    rows: Sequence[dict[str, Any]],
    convert: Callable[[dict[str, Any]], Sequence[Battle]],
    file: Path,
    name: str,
    counts: Counter[str],
) -> Battles:
    found: list[Battle] = []
    for number, row in enumerate(rows, start=1):
        try:
            found += convert(row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise DataError(f"{file}:{number}: not a row like the first one ({said}); mend or remove it") from None
    counts["rows"] += len(found)
    counts["no verdict"] += sum(each.outcome is None for each in found)
    return gathered(found, name)


def gathered(battles: Sequence[Battle], judge: str = CROWD) -> Battles:
    """Return the columns of battles; those without a verdict are left out.

    Args:
        battles: The battles.
        judge: Name of the judge where a battle names none.
    """
    kept = [each for each in battles if each.outcome is not None]
    systems = dict.fromkeys(name for each in kept for name in (each.left, each.right))
    judges, categories = (dict.fromkeys(values) for values in ((each.judge or judge for each in kept), (each.category for each in kept)))
    prompts = dict.fromkeys(each.prompt for each in kept if each.prompt)
    place = [{name: i for i, name in enumerate(names)} for names in (systems, judges, prompts, categories)]
    features = dict.fromkeys(name for each in kept for name in each.features)
    unknown = (float("nan"), float("nan"))

    def codes(values: Sequence[int]) -> Any:
        return np.array(values, dtype=np.int64)

    return Battles(
        systems=tuple(systems),
        judges=tuple(judges),
        prompts=tuple(prompts),
        categories=tuple(categories),
        left=codes([place[0][each.left] for each in kept]),
        right=codes([place[0][each.right] for each in kept]),
        outcome=np.array([each.outcome for each in kept], dtype=np.float64),
        prompt=codes([place[2].get(each.prompt, -1) for each in kept]),
        judge=codes([place[1][each.judge or judge] for each in kept]),
        category=codes([place[3][each.category] for each in kept]),
        first=np.array([each.first for each in kept], dtype=np.float64),
        weight=np.array([each.weight for each in kept], dtype=np.float64),
        features={name: np.array([each.features.get(name, unknown) for each in kept], dtype=np.float64) for name in features},
    )


def joined(parts: Sequence[Battles]) -> Battles:
    """Return the battles of several files as one; equal names are the same system, judge, prompt or category."""
    if len(parts) == 1:
        return parts[0]
    columns_of: dict[str, Any] = {}
    for field, columns in (("systems", ("left", "right")), ("judges", ("judge",)), ("prompts", ("prompt",)), ("categories", ("category",))):
        union = dict.fromkeys(name for part in parts for name in getattr(part, field))
        place = {name: i for i, name in enumerate(union)}
        columns_of[field] = tuple(union)
        for column in columns:
            moved = []
            for part in parts:
                table = np.array([*(place[name] for name in getattr(part, field)), -1], dtype=np.int64)  # the last one is place -1, unknown
                moved.append(table[getattr(part, column)])
            columns_of[column] = np.concatenate(moved)
    columns_of |= {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("outcome", "first", "weight")}
    shared = dict.fromkeys(name for part in parts for name in part.features)
    return Battles(
        **columns_of,
        features={name: np.concatenate([part.features.get(name, np.full((len(part), 2), np.nan)) for part in parts]) for name in shared},
    )
