"""Sources of preference data: rows of files, folders and hub datasets, and the records that they become."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prefrep.data import cyclic, files
from prefrep.data.files import Row, parts
from prefrep.data.formats import FORMATS, check_format, detect, to_record
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.records import Record

BUNDLED = {path.stem: path for path in (Path(__file__).parent / "samples").glob("*.*") if path.suffix in (".jsonl", ".txt")}


@dataclass(frozen=True)
class Source:
    """A source of data.

    Args:
        path: A file (.jsonl, .json, .parquet, .jsonl.gz, .json.gz), a folder of them, a hub dataset as `owner/name`,
            `owner/name:split` or `owner/name@config:split`, bundled data as `bundled:NAME`, or the cyclic comparisons of any of these as
            `cyclic:PATH?omit=ASPECT` (`prefrep.data.cyclic.Subset`; the other fields then describe the ratings).
        format: Format of the rows, see `prefrep.data.formats`; `auto`: detected from the columns of the first row.
        split: Split of a hub dataset, or of a folder whose sub-folders or file names are splits. None: the purpose of the data, `train`,
            `validation` or `test`; in a folder with a single split, that one.
        weight: How often to use each row: 2 reads all twice, 0.5 a random half, 1.5 all and a random half again.
        limit: Maximum number of records.
        columns: Renamed columns, from prefrep's name to the source's: `{rejected: worse}`.
        streaming: Read a hub dataset while it downloads, without storing it.

    Raises:
        ConfigError: A value is outside its range.
    """

    path: str
    format: str = "auto"
    split: str | None = None
    weight: float = 1.0
    limit: int | None = None
    columns: dict[str, str] | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        check_format(self.format)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"{self.path}: the weight of a source must be above 0, got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"{self.path}: the limit of a source must be at least 1, got {self.limit}")
        if self.path.startswith(cyclic.PREFIX):
            cyclic.Subset.parse(self.path)


def rows(
    path: str | Path, *, split: str | None = None, columns: Mapping[str, str] | None = None, streaming: bool = False
) -> Iterator[tuple[Row, str]]:
    """Read rows.

    Args:
        path: See `Source`.
        split: See `Source`.
        columns: See `Source`.
        streaming: See `Source`.

    Yields:
        A row and its location: `file:line` (in JSON lists and Parquet `file:row`; on the hub `owner/name[split]:row`), from 1.

    Raises:
        DataError: The source cannot be read or holds no rows.
        RecordError: A row is broken.
    """
    for _, found in parts(located(path), split, streaming):
        for row, place in found:
            if isinstance(row, RecordError):
                raise row
            yield _renamed(row, columns, place), place


def read(
    source: Source | str | Path,
    on_bad_row: Literal["error", "skip"] = "error",
    skipped: list[RecordError] | None = None,
    formats: Counter[str] | None = None,
    role: str = "",
) -> Iterator[Record]:
    """Yield the records of a source. `read_mixed` applies `Source.weight`, this function does not.

    The first row of a file determines the format of all its rows, so that a missing prompt is an error and not another format.

    Args:
        source: The source.
        on_bad_row: `error`: raise at the first bad row. `skip`: leave it out.
        skipped: Collects the errors of skipped rows.
        formats: Counts the records of each format.
        role: Purpose of the data, see `files.parts`.

    Raises:
        DataError: The source cannot be read or holds no usable rows.
        RecordError: A row is bad, under `error`.
    """
    source = source if isinstance(source, Source) else Source(str(source))
    if source.path.startswith(cyclic.PREFIX):
        subset = cyclic.Subset.parse(source.path)
        # `part=` splits cycles by prompt, and rating data have a single split on the hub: the role does not matter.
        yield from subset.comparisons(read(replace(source, path=subset.ratings), on_bad_row, skipped, formats))
        return
    bad = [] if skipped is None else skipped
    bad_before, records = len(bad), 0
    for _, found in parts(located(source.path), source.split, source.streaming, role):
        format = source.format
        for row, place in found:
            try:
                if isinstance(row, RecordError):
                    raise row
                row = _renamed(row, source.columns, place)
                format = detect(row, place) if format == "auto" else format
                record = to_record(row, format, place)
            except RecordError as error:
                if on_bad_row == "error":
                    raise _explained(error, row, format, source) from None
                bad.append(error)
                continue
            if formats is not None:
                formats[format] += 1
            yield record
            records += 1
            if records == source.limit:
                return
    if not records:
        raise DataError(f"{source.path}: none of its {len(bad) - bad_before} rows can be used; the first: {bad[bad_before]}")


def read_mixed(
    sources: Iterable[Source | str],
    seed: int = 0,
    on_bad_row: Literal["error", "skip"] = "error",
    skipped: list[RecordError] | None = None,
    role: str = "",
) -> Sequence[Record]:
    """Read several sources and apply their weights. Records are stored on disk (`data.spool`), each once, whatever the weight.

    Records keep their order: those of the first source come first. A weight of 2.5 gives all rows twice, then a random half of them,
    which depends on the seed and on the index of the source, not on the other sources.

    Args:
        sources: The sources.
        seed: Seed of the random parts.
        on_bad_row: See `read`.
        skipped: See `read`.
        role: See `read`.

    Raises:
        DataError: See `read`.
        RecordError: See `read`.
    """
    named = [source if isinstance(source, Source) else Source(source) for source in sources]
    counts = [0] * len(named)

    def every() -> Iterator[Record]:
        for number, source in enumerate(named):
            for record in read(source, on_bad_row, skipped, role=role):
                counts[number] += 1
                yield record

    records, order, first = Spool(every()), array("q"), 0
    for number, (source, size) in enumerate(zip(named, counts, strict=True)):
        times, part = divmod(source.weight, 1.0)
        for _ in range(int(times)):
            order.extend(range(first, first + size))
        count = round(part * size)
        if times == 0:
            count = max(count, 1)  # every source contributes at least one record
        order.extend(first + i for i in sorted(random.Random(f"{seed}:{number}").sample(range(size), count)))
        first += size
    return records.reordered(order)


def files_of(path: str, split: str | None = None, role: str = "") -> list[Path]:
    """Return the local files of a source; none for a hub dataset. Arguments and errors as in `read`."""
    if path.startswith(cyclic.PREFIX):
        return files.files_of(located(cyclic.Subset.parse(path).ratings), split)
    return files.files_of(located(path), split, role)


def content(path: str, split: str | None = None, role: str = "") -> str:
    """Return a digest of the files of a source; empty for a hub dataset. Arguments and errors as in `read`."""
    found = []
    for file in files_of(path, split, role):
        try:
            with file.open("rb") as opened:
                found.append((file.name, hashlib.file_digest(opened, "sha256").hexdigest()))
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    return hashlib.sha256(repr(found).encode()).hexdigest() if found else ""


def located(path: str | Path) -> str | Path:
    """Return a path, or the file of `bundled:NAME`. Raises DataError: there are no such bundled data."""
    kind, _, name = str(path).partition(":")
    if kind != "bundled":
        return path
    if name not in BUNDLED:
        raise DataError(f"{path}: no such bundled data; there is {', '.join(f'bundled:{known}' for known in sorted(BUNDLED))}")
    return BUNDLED[name]


def _explained(error: RecordError, row: Row | RecordError, format: str, source: Source) -> RecordError:
    """Return the error, with a note if the row fits another format than the first row of the file."""
    if source.format != "auto" or isinstance(row, RecordError):
        return error
    other = next((name for name, each in FORMATS.items() if each.fits(row)), format)
    if other == format:
        return error
    return RecordError(error.source, f"{error.problem}: the file began as {format}, this row looks like {other}", error.remedy)


def _renamed(row: Row, columns: Mapping[str, str] | None, place: str) -> Row:
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row:
            raise RecordError(place, f"no '{theirs}', which columns names as '{ours}' (found: {', '.join(row)})", "correct columns")
    taken = {theirs: row[theirs] for theirs in columns.values()}
    return {name: value for name, value in row.items() if name not in taken} | {ours: taken[theirs] for ours, theirs in columns.items()}
