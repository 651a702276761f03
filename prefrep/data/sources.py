"""Sources of preference data: rows of files, folders and hub datasets, and the records that they become."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from prefrep.console import progress
from prefrep.data import cyclic, files, formats
from prefrep.data.files import Found, Row, parts
from prefrep.data.formats import check_format, detect, looks_like, to_records
from prefrep.data.gather import gathered
from prefrep.data.labels import Labels, Strength
from prefrep.data.notes import SAMPLE, Notes, Tracked, format_of, rival
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.records import Record

log = logging.getLogger(__name__)

BUNDLED = {path.stem: path for path in (Path(__file__).parent / "samples").glob("*.*") if path.suffix in (".jsonl", ".txt")}


@dataclass(frozen=True)
class Source:
    """A source of data.

    Args:
        path: A file (see `data.files`), a folder of them or of `datasets.save_to_disk`, a hub dataset as `owner/name`,
            `owner/name:split` or `owner/name@config:split`, bundled data as `bundled:NAME`, or the cyclic comparisons of any of these as
            `cyclic:PATH?omit=ASPECT` (`prefrep.data.cyclic.Subset`; the other fields then describe the ratings).
        format: Format of the rows, see `prefrep.data.formats`; `auto`: detected from the first rows.
        split: Split of a hub dataset, or of a folder whose sub-folders or file names are splits. None: the purpose of the data, `train`,
            `validation` or `test`; in a folder with a single split, that one.
        weight: How often to use each row: 2 reads all twice, 0.5 a random half, 1.5 all and a random half again.
        limit: Maximum number of records.
        columns: Renamed columns, from prefrep's name to the source's: `{rejected: worse}`.
        streaming: Read a hub dataset while it downloads, without storing it.
        criterion: See `data.labels.Labels`.
        strength: See `data.labels.Labels`; None: `ignore`, or the choice of the DataModule.
        strength_scale: See `data.labels.Labels`; None: 1, or the choice of the DataModule.

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
    criterion: str | None = None
    strength: Strength | None = None
    strength_scale: float | None = None

    def __post_init__(self) -> None:
        check_format(self.format)
        self.labels  # noqa: B018 - checks the scale
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"{self.path}: the weight of a source must be above 0, got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"{self.path}: the limit of a source must be at least 1, got {self.limit}")
        if self.path.startswith(cyclic.PREFIX):
            cyclic.Subset.parse(self.path)

    @property
    def labels(self) -> Labels:
        """The choice of labels."""
        return Labels(self.criterion, self.strength or "ignore", 1.0 if self.strength_scale is None else self.strength_scale)


LABELS = Labels()
Sources = str | Source | list[str | Source]


def named(given: Sources, format: str = "auto", labels: Labels = LABELS) -> list[Source]:
    """Return the sources of a configuration.

    Args:
        given: A path, a hub id, a `Source`, or a list of them.
        format: Format of sources that have none of their own.
        labels: Choice of labels of sources that have none of their own.
    """
    sources = [Source(each) if isinstance(each, str) else each for each in (given if isinstance(given, list) else [given])]
    return [
        replace(
            source,
            format=format if source.format == "auto" else source.format,
            criterion=labels.criterion if source.criterion is None else source.criterion,
            strength=source.strength or labels.strength,
            strength_scale=labels.scale if source.strength_scale is None else source.strength_scale,
        )
        for source in sources
    ]


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
            yield under_our_names(row, columns, place), place


def read(
    source: Source | str | Path,
    on_bad_row: Literal["error", "skip"] = "error",
    skipped: list[RecordError] | None = None,
    notes: Notes | None = None,
    role: str = "",
) -> Iterator[Record]:
    """Yield the records of a source. `read_mixed` applies `Source.weight`, this function does not.

    The first rows of a file determine the format of all its rows, so that a missing prompt is an error and not another format.

    Args:
        source: The source.
        on_bad_row: `error`: raise at the first bad row. `skip`: leave it out.
        skipped: Collects the errors of skipped rows.
        notes: Collects formats, columns that no field takes, and criteria.
        role: Purpose of the data, see `files.parts`.

    Raises:
        DataError: The source cannot be read or holds no usable rows, or none of the criterion.
        RecordError: A row is bad, under `error`.
    """
    source = source if isinstance(source, Source) else Source(str(source))
    if source.path.startswith(cyclic.PREFIX):
        subset = cyclic.Subset.parse(source.path)
        # `part=` splits cycles by prompt, and rating data have a single split on the hub: the role does not matter.
        yield from subset.comparisons(read(replace(source, path=subset.ratings), on_bad_row, skipped, notes))
        return
    bad = [] if skipped is None else skipped
    bad_before, records, found = len(bad), 0, Notes() if notes is None else notes
    for file, rows_of in parts(located(source.path), source.split, source.streaming, role):
        for record in _File(file, source, on_bad_row, bad, found, track=notes is not None).records(rows_of):
            found.criteria[record.criterion] += 1
            chosen = source.labels.apply(record)
            if chosen is not None:
                yield chosen
                records += 1
                if records == source.limit:
                    return
    if not records and found.criteria:
        aspects = ", ".join(filter(None, found.criteria)) or "none"
        raise DataError(f"{source.path}: no record has a label for criterion '{source.criterion}' (found: {aspects}); choose another one")
    if not records:
        raise DataError(f"{source.path}: none of its {len(bad) - bad_before} rows can be used; the first: {bad[bad_before]}")
    if len(found.criteria) > 1 and source.criterion is None:
        listed = ", ".join(f"{name or '(none)'} {count}" for name, count in found.criteria.most_common())
        log.info("%s: labels of several criteria are used together (%s); criterion selects one", source.path, listed)


class _File:
    """The rows of one file on their way to records; arguments are those of `read`."""

    def __init__(
        self, name: str, source: Source, on_bad_row: Literal["error", "skip"], bad: list[RecordError], notes: Notes, track: bool
    ) -> None:
        self._name, self._source, self._on_bad_row, self._bad = name, source, on_bad_row, bad
        self._notes, self._track, self._others = notes, track, Counter[str | None]()

    def records(self, found: Found) -> Iterator[Record]:
        """Yield the records of the file's rows."""
        columns = self._source.columns
        head = list(islice(found, SAMPLE))
        sample = [row for row, place in head if not isinstance(row, RecordError) and self._fits_columns(row)]
        sample = [under_our_names(row, columns, "") for row in sample]
        format = self._source.format
        if format == "auto" and (most := format_of(sample)) is not None:
            format = most
            if (other := rival([row for row in sample if formats.every()[format].fits(row)], format)) is not None:
                self._notes.rivals[format, other] += 1
                log.info("%s: read as %s; its columns fit %s too, so set format if that is meant", self._name, format, other)
        converted = self._converted(chain(head, found), format, sample)
        yield from gathered(converted) if format != "auto" and formats.every()[format].gathers else converted
        if self._others:
            self._notes.others.update({name or "": count for name, count in self._others.items()})
            listed = ", ".join(f"{count} like {name}" for name, count in self._others.most_common())
            log.warning("%s: read as %s, but some rows look like other formats (%s)", self._name, format, listed)

    def _fits_columns(self, row: Row) -> bool:
        return all(theirs in row for theirs in (self._source.columns or {}).values())

    def _converted(self, found: Found, format: str, sample: Sequence[Row]) -> Iterator[Record]:
        auto = self._source.format == "auto"
        for row, place in found:
            name = format
            self._notes.rows += 1
            try:
                if isinstance(row, RecordError):
                    raise row
                row = under_our_names(row, self._source.columns, place)
                name = detect(row, place) if format == "auto" else format  # "auto": no row of the sample fitted any format
                tracked = Tracked(row) if self._track else row
                records = to_records(tracked, name, place)
            except RecordError as error:
                error = _explained(error, row, name if auto else "", sample)
                if self._on_bad_row == "error":
                    raise error from None
                self._bad.append(error)
                continue
            if isinstance(tracked, Tracked):
                self._notes.unread.update(tracked.unread())
            if auto and (looks := looks_like(row)) not in (name, None):
                self._others[looks] += 1
            self._notes.formats[name] += len(records)
            yield from records


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
    records = Spool(every(named, counts, on_bad_row, skipped, role))
    return records.reordered(weighted(named, counts, seed))


def every(
    sources: Sequence[Source], counts: list[int], on_bad_row: Literal["error", "skip"], skipped: list[RecordError] | None, role: str
) -> Iterator[Record]:
    """Yield the records of several sources in turn, and count them in `counts`; other arguments and errors as in `read`."""
    for number, source in enumerate(sources):
        for record in progress(read(source, on_bad_row, skipped, role=role), f"reading {source.path}", "records"):
            counts[number] += 1
            yield record


def weighted(sources: Sequence[Source], counts: Sequence[int], seed: int) -> Sequence[int]:
    """Return the indices of the records of several sources, in order and as often as weights say; see `read_mixed`."""
    order, first = array("q"), 0
    for number, (source, size) in enumerate(zip(sources, counts, strict=True)):
        times, part = divmod(source.weight, 1.0)
        for _ in range(int(times)):
            order.extend(range(first, first + size))
        count = round(part * size)
        if times == 0:
            count = max(count, 1)  # every source contributes at least one record
        order.extend(first + i for i in sorted(random.Random(f"{seed}:{number}").sample(range(size), count)))
        first += size
    return order


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


def _explained(error: RecordError, row: Row | RecordError, format: str, sample: Sequence[Row]) -> RecordError:
    """Return the error, with a note if the row fits another format than the one detected for the file."""
    if not format or isinstance(row, RecordError):
        return error
    other = looks_like(row)
    if other in (None, format):
        return error
    began = "the file began as" if sample and formats.every()[format].fits(sample[0]) else "most of the first rows are"
    return RecordError(error.source, f"{error.problem}: {began} {format}, this row looks like {other}", error.remedy)


def under_our_names(row: Row, columns: Mapping[str, str] | None, place: str) -> Row:
    """Return a row with the `columns` of a `Source` renamed. Raises RecordError: it lacks one."""
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row:
            raise RecordError(place, f"no '{theirs}', which columns names as '{ours}' (found: {', '.join(row)})", "correct columns")
    taken = {theirs: row[theirs] for theirs in columns.values()}
    return {name: value for name, value in row.items() if name not in taken} | {ours: taken[theirs] for ours, theirs in columns.items()}
