"""Rows of per-sample scores: a class for each kind of benchmark."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

from prefrep.errors import DataError, RecordError
from prefrep.records import Comparison

SCORES = "scores.jsonl"


def finite(value: object) -> float:
    """Return a score as a float. Raises ValueError: it is not a finite number."""
    if isinstance(value, list) and len(value) == 1:  # the official tools save each score as a list of one number
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a score must be a finite number, found {value!r}")
    return float(value)


def finite_or_none(value: object) -> float:
    """Return a score as a float; null, no verdict, is NaN. Raises ValueError: it is neither."""
    return math.nan if value is None else finite(value)


def objectives_in(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the scores by objective that a line of `scores.jsonl` has. Raises ValueError: they are not numbers by name."""
    given = row.get("objectives")
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"objectives must be numbers by name, found {given!r}")
    return None if given is None else {name: finite(value) for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class PairScore:
    """A scored comparison.

    Args:
        id: Id of the pair.
        subset: Subset of the pair.
        score: Log-odds of chosen over rejected; NaN (null in files): the judge gave no verdict.
        objectives: The same by objective, of a model with several; None: it has one.
    """

    form: ClassVar[str] = '{"id", "subset", "score"}'

    id: str
    subset: str
    score: float
    objectives: dict[str, float] | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, pair: Comparison, score: float) -> Self:
        """Return the row of a comparison with a score."""
        return cls(pair.id, pair.subset, float(score))

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `scores.jsonl`. Raises ValueError or KeyError: it is not one."""
        return cls(str(row["id"]), str(row["subset"]), finite_or_none(row["score"]), objectives=objectives_in(row))


@dataclass(frozen=True, slots=True)
class RewardScore(PairScore):
    """A scored comparison, with the rewards of both answers if the model has rewards.

    Args:
        rewards: Rewards of chosen and rejected, divided by tau; None: the model only compares.
    """

    rewards: tuple[float, float] | None = None

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `scores.jsonl`. Raises ValueError or KeyError: it is not one."""
        given = row.get("rewards")
        if given is not None and (not isinstance(given, list) or len(given) != 2):
            raise ValueError(f"rewards must be two numbers, found {given!r}")
        rewards = None if given is None else (finite(given[0]), finite(given[1]))
        return cls(str(row["id"]), str(row["subset"]), finite_or_none(row["score"]), rewards, objectives=objectives_in(row))


@dataclass(frozen=True, slots=True)
class RankedScore:
    """One prompt of RewardBench 2.

    Args:
        id: Id of the prompt.
        subset: Subset of the prompt.
        num_correct: Number of correct answers, which come first.
        scores: One score per answer; NaN (null in files): the judge gave no verdict.
    """

    form: ClassVar[str] = '{"id", "subset", "num_correct", "scores": [...]}'

    id: str
    subset: str
    num_correct: int
    scores: tuple[float, ...]

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `scores.jsonl`. Raises ValueError or KeyError: it is not one."""
        scores = tuple(finite_or_none(value) for value in row["scores"])
        if not 1 <= int(row["num_correct"]) <= len(scores):
            raise ValueError(f"num_correct is {row['num_correct']} with {len(scores)} scores")
        return cls(str(row["id"]), str(row["subset"]), int(row["num_correct"]), scores)


class ScoreRow(Protocol):
    """A row of per-sample scores: a frozen dataclass that parses its own serialisation."""

    form: ClassVar[str]

    @property
    def id(self) -> str:
        """Id of the sample."""

    @property
    def subset(self) -> str:
        """Subset of the sample."""

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row. Raises ValueError or KeyError: it is not one."""


Row = TypeVar("Row", bound=ScoreRow)


class SavedRows(Sequence[Row], Generic[Row]):
    """Rows of a file, parsed as they are read: the file holds them, and memory only where every 128th line begins.

    Args:
        path: The file, a row per line.
        kind: Class of its rows.
    """

    _STEP = 128

    def __init__(self, path: Path, kind: type[Row]) -> None:
        self._path, self._kind = path, kind
        self._starts = array("q")
        self._count = self.size = 0

    @classmethod
    def complete(cls, path: Path, kind: type[Row], count: int | None = None) -> Self:
        """Return the first `count` complete lines of a file, or all of them; a line without a line break is none."""
        rows = cls(path, kind)
        with path.open("rb") as file:
            for line in islice(file, count):
                if line.endswith(b"\n"):
                    rows.add(line)
        return rows

    def add(self, line: bytes) -> None:
        """Count a line that the file has after the others; `size` is that of all of them, in bytes."""
        if self._count % self._STEP == 0:
            self._starts.append(self.size)
        self._count += 1
        self.size += len(line)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows that there are now. Raises RecordError or DataError: a line is not a row, or missing."""
        return self._from(0) if self._count else iter(())

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            return list(islice(self._from(start), stop - start)) if step == 1 and start < stop else list(self)[index]
        with closing(self._from(range(self._count)[index])) as rows:
            return next(rows)

    def _from(self, place: int) -> Generator[Row]:
        """Yield the rows from a place on. Raises DataError: the file has fewer than it had."""
        step, skipped = divmod(place, self._STEP)
        number, count = place, self._count
        with self._path.open("rb") as file:
            file.seek(self._starts[step])
            for number, line in enumerate(islice(file, skipped, count - place + skipped), place + 1):
                yield parse_line(line.decode("utf-8", errors="replace"), f"{self._path}:{number}", self._kind)
        if number < count:
            raise DataError(f"{self._path}: another program changed it; run the same command again")


def read_scores(path: str | Path, kind: type[Row]) -> list[Row]:
    """Read a file of per-sample scores.

    Args:
        path: A `scores.jsonl`.
        kind: Class of its rows.

    Raises:
        DataError: There is no such file, or it is empty.
        RecordError: A row is not of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; --scores reads the {SCORES} of an earlier evaluation")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() also splits at U+2028, which JSON strings can contain
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason})") from error
    rows = [parse_line(line, f"{path}:{number}", kind) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: holds no scores")
    return rows


def parse_line(line: str, source: str, kind: type[Row]) -> Row:
    """Return the row of a line; `source` names the line in errors.

    Raises:
        RecordError: The line is not JSON, or not a row of this kind.
    """
    wanted = kind.form
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecordError(source, "not JSON", f"each line must be {wanted}") from error
    if not isinstance(row, dict):
        raise RecordError(source, f"found {type(row).__name__}", f"each line must be {wanted}")
    try:
        return kind.parse(row)
    except KeyError as error:
        other = {"score", "scores"} & row.keys()
        remedy = f"each line must be {wanted}" + ("; scores of another benchmark need its own sub-command" if other else "")
        raise RecordError(source, f"no {error.args[0]!r} (found: {', '.join(row)})", remedy) from error
    except (TypeError, ValueError) as error:
        raise RecordError(source, str(error), f"each line must be {wanted}") from error
