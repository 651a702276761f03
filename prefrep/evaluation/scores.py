"""Per-sample scores on disk: `scores.jsonl`, written row by row and continued after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import numpy as np

from prefrep.data.mapped import Mapped
from prefrep.disk import replace_json
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.objectives import scores_by_objective
from prefrep.evaluation.rows import SCORES, PairScore, RankedScore, RewardScore, Row, SavedRows, ScoreRow
from prefrep.judges import Comparer
from prefrep.metrics.intervals import Ints
from prefrep.records import Comparison, Messages, Record, as_dict
from prefrep.room import saving
from prefrep.scoring.interface import WINDOW
from prefrep.writers import leave

SIDECAR = "scores.meta.json"
# May change when an interrupted run is resumed, since scores do not depend on it.
_VOLATILE = {"versions", "batch_tokens", "layout", "device", "encoded"}
Pair = TypeVar("Pair", bound=PairScore)


def digest(records: Iterable[Record]) -> str:
    """Return a fingerprint of the records that are scored: texts, ids and subsets, in order."""
    found = hashlib.sha256()
    for record in records:
        fields = as_dict(record)
        fields.pop("source")  # the same data can be in another file
        found.update(json.dumps(fields, sort_keys=True, default=str).encode())
    return found.hexdigest()


def prompt_digest(prompt: Messages) -> str:
    """Return a short digest of a prompt, equal for rows on one prompt; empty without a prompt."""
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16] if prompt else ""


def distinct(names: Iterable[str], known: Names | None = None) -> Iterator[str]:
    """Yield names as unique ids: the second "a" becomes "a#2".

    Args:
        names: The names.
        known: Tells of the names which have to be remembered; None: all of them are.

    Example:
        >>> list(distinct(["a", "b", "a"]))
        ['a', 'b', 'a#2']
    """
    last: dict[str, int] = {}
    for name in names:
        found = name
        while found in last:
            last[name] += 1
            found = f"{name}#{last[name]}"
        if known is None or (known.recurs(name) if found == name else known.holds(found)):
            last[found] = 1
        yield found


class Names:
    """The hashes of names, by which `distinct` remembers few of them. Names with equal hashes may differ.

    Args:
        hashes: The hash of each name, [n]. Sorted here.
    """

    def __init__(self, hashes: Ints) -> None:
        hashes.sort()
        self._all, self._several = hashes, np.unique(hashes[1:][hashes[1:] == hashes[:-1]])

    @property
    def differ(self) -> bool:
        """Whether all names differ."""
        return not len(self._several)

    def holds(self, name: str) -> bool:
        """Return whether a name may be among them."""
        return _among(hash(name), self._all)

    def recurs(self, name: str) -> bool:
        """Return whether a name may come again, or be the id of a name that does: that name with numbers behind it, as "a#2#2"."""
        while not _among(hash(name), self._several):
            name, _, number = name.rpartition("#")
            if not number.isdecimal():
                return False
        return True


def _among(value: int, ascending: Ints) -> bool:
    place = int(np.searchsorted(ascending, value))
    return place < len(ascending) and bool(ascending[place] == value)


def described(folder: Path) -> dict[str, Any]:
    """Return what is recorded beside the scores of a folder about their origin; empty for scores of other tools."""
    try:
        return dict(json.loads((folder / SIDECAR).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def add_counts(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Add the encoding counts of this run (`encoded`: rows, truncations) to those of earlier runs into the same folder.

    Args:
        folder: The output folder.
        model: The model's description at the end of the run.

    Returns:
        The description with the sums, which is also kept beside the scores. A killed run leaves no counts.
    """
    sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    if "encoded" not in model:  # it reads texts, not tokens
        return dict(model)
    counts = Counter(sidecar["model"].get("encoded", {}))
    counts.update(model.get("encoded", {}))
    counted = {**model, "encoded": dict(counts)}
    replace_json(folder / SIDECAR, {**sidecar, "model": json.loads(json.dumps(counted, default=str))})
    return counted


def encoding_notes(model: Mapping[str, Any], rows: int) -> list[str]:
    """Return notes about the encoding of texts for readers of results.

    Args:
        model: The description with its counts, see `add_counts`.
        rows: Number of all scored rows.
    """
    if model.get("abstains"):
        return []
    counts = model.get("encoded", {})
    cut = [f"{n} {what}" for what, n in counts.items() if what != "records" and n]
    notes = [f"while encoding: {', '.join(cut)}"] if cut else []
    seen = counts.get("records", 0)
    if seen < rows:
        notes.append(f"truncation was counted for {seen} of {rows} rows; the others were scored by a run that was interrupted")
    return notes


class ScoreLog(Generic[Row]):
    """`scores.jsonl` of one evaluation, open for appending; use as a context manager.

    `rows` holds the rows of an interrupted run, and scoring continues after them. An incomplete last line is dropped, and of a model
    that reads in batches an incomplete window. Rows of a judge that
    writes are made anew from its kept answers.

    Args:
        folder: The output folder; created if needed.
        kind: Class of the rows.
        identity: What the scores depend on: benchmark, model, data, ... It is kept beside the scores.
        expected: (id, subset) of every row, in order; read where the folder holds rows.
        restart: Discard what the folder holds.

    Raises:
        ConfigError: The folder holds scores with another identity, or another evaluation.
        RecordError: A line other than the last one is broken.
    """

    name: ClassVar[str] = SCORES

    def __init__(
        self, folder: Path, kind: type[Row], identity: Mapping[str, Any], expected: Iterable[tuple[str, str]], restart: bool = False
    ) -> None:
        self.path = folder / self.name
        self.rows: SavedRows[Row] = SavedRows(self.path, kind)
        folder.mkdir(parents=True, exist_ok=True)
        stated = json.loads(json.dumps(identity, default=str))
        self._abstains = bool((identity.get("model") or {}).get("abstains"))  # NaN is no verdict, and null in the file
        self._batched = "batch_tokens" in (identity.get("model") or {})
        if restart:
            self.path.unlink(missing_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            self._check_owner(folder / SIDECAR, stated)
            if self._abstains:  # its answers are kept, so that writing them anew costs nothing, and what had none is asked again
                self.path.unlink()
            else:
                self.rows = self._resumed(kind, expected)
        else:
            if not restart and (other := described(folder).get("benchmark", stated["benchmark"])) != stated["benchmark"]:
                raise ConfigError(
                    f"{folder}: holds an evaluation of another kind ({other}); choose another --out, or discard it with --restart"
                )
            replace_json(folder / SIDECAR, stated)

    def _check_owner(self, sidecar: Path, stated: dict[str, Any]) -> None:
        remedy = "choose another --out, or discard them with --restart"
        try:
            found = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}: scores of an unknown model (no readable {SIDECAR}); {remedy}") from error
        for key in sorted(stated.keys() | found.keys()):
            old, new = found.get(key), stated.get(key)
            if isinstance(old, dict) and isinstance(new, dict):
                changed = sorted(k for k in (old.keys() | new.keys()) - _VOLATILE if old.get(k) != new.get(k))
                if changed:
                    raise ConfigError(f"{self.path}: scores of another {key} (differs in {', '.join(changed)}); {remedy}")
            elif old != new:
                shown = "" if key == "data" else f" ({old}, now {new})"
                raise ConfigError(f"{self.path}: scores of another {key}{shown}; {remedy}")

    def _resumed(self, kind: type[Row], expected: Iterable[tuple[str, str]]) -> SavedRows[Row]:
        rows, names, same = SavedRows.complete(self.path, kind), iter(expected), True
        for row in rows:  # all of them, since a broken line is the error to report
            same = (row.id, row.subset) == next(names, None) and same
        if not same:
            raise ConfigError(f"{self.path}: its ids are not those of the data; choose another --out, or discard it with --restart")
        # A model reads a window in batches, which decide on last bits: only whole ones are kept, as `prefrep score` does.
        if self._batched and next(names, None) is not None:
            rows = SavedRows.complete(self.path, kind, len(rows) // WINDOW * WINDOW)
        with saving(self.path):
            os.truncate(self.path, rows.size)
        return rows

    def __enter__(self) -> Self:
        with saving(self.path):
            self._file, self._kept = self.path.open("ab"), len(self.rows)
        return self

    def append(self, row: Row) -> None:
        """Append a row and flush it. A requested stop takes effect after a complete window of rows.

        Raises:
            DataError: A score is not finite.
            Stopped: A signal asked the program to stop.
        """
        numbers = [number for number in self._numbers(row) if not (self._abstains and math.isnan(number))]
        if not all(map(math.isfinite, numbers)):
            raise DataError(f"row {row.id!r} ({row.subset}): the model gave a score that is not finite; try --dtype float32")
        line = (json.dumps(_without_nan(as_line(row)), ensure_ascii=False) + "\n").encode()
        with saving(self.path):
            self._file.write(line)
            self._file.flush()
        self.rows.add(line)
        if (len(self.rows) - self._kept) % WINDOW == 0:  # the next rows are computed together
            leave()

    @staticmethod
    def _numbers(row: Row) -> Sequence[float]:
        """Return the numbers of a row, which must be finite."""
        return row.scores if isinstance(row, RankedScore) else (cast(PairScore, row).score,)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with saving(self.path):
            self._file.close()


def as_line(row: ScoreRow) -> dict[str, Any]:
    """Return a row as plain data, without the rewards and objectives of a model that has none."""
    return {name: value for name, value in asdict(cast(Any, row)).items() if value is not None or name not in ("rewards", "objectives")}


def _without_nan(value: Any) -> Any:
    """Return plain data with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class Rewarder(Protocol):
    """A model that has a reward for each response."""

    def compare_rewards(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[tuple[float, float, float]]:
        """Yield the log-odds of chosen over rejected, and the rewards of both."""


def log_pairs(
    comparer: Comparer, pairs: Sequence[Comparison], out: Path, kind: type[Pair], benchmark: str, model: Mapping[str, Any],
    restart: bool = False,
) -> SavedRows[Pair]:  # fmt: skip
    """Score comparisons into `out/scores.jsonl`, resuming an interrupted run.

    Args:
        comparer: The model, or another judge.
        pairs: The comparisons.
        out: Output folder.
        kind: Class of the rows; a `RewardScore` needs a `Rewarder`.
        benchmark: Name of the evaluation.
        model: Identity of the comparer, kept beside the scores.
        restart: Discard the scores that the folder holds.

    Returns:
        The rows, in that file.

    Raises:
        DataError: A score is not finite.
        ConfigError: The folder holds scores of another model or other data.
    """
    identity = {"benchmark": benchmark, "model": dict(model), "data": digest(pairs)}
    with ScoreLog(out, kind, identity, ((pair.id, pair.subset) for pair in pairs), restart) as log:
        if len(log.rows) == len(pairs):
            return log.rows
        rest = Mapped(pairs, places=np.arange(len(log.rows), len(pairs))) if len(log.rows) else pairs
        if names := getattr(comparer, "objectives", ()):
            for pair, (score, by_name, rewards) in zip(rest, scores_by_objective(comparer, rest, names, benchmark), strict=True):
                row = replace(kind.of(pair, score), objectives=by_name)
                log.append(cast(Pair, replace(row, rewards=rewards)) if isinstance(row, RewardScore) else row)
            return log.rows
        if kind is RewardScore:
            found = cast(Rewarder, comparer).compare_rewards(rest, progress=benchmark)
            for pair, (score, chosen, rejected) in zip(rest, found, strict=True):
                log.append(cast(Pair, RewardScore(pair.id, pair.subset, score, (chosen, rejected))))
            return log.rows
        for pair, score in zip(rest, comparer.compare(rest, progress=benchmark), strict=True):
            log.append(kind.of(pair, score))
        return log.rows
