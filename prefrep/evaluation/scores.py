"""Per-sample scores on disk: rows of `scores.jsonl`, written as scoring goes, read back, and carried on after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from prefrep.disk import keep_lines, replace_json
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.rows import SCORES, PairScore, RankedScore, RewardScore, Row, parse_line
from prefrep.judges import Comparer
from prefrep.records import Comparison, Messages, Record, as_dict
from prefrep.room import saving
from prefrep.scoring.workers import WINDOW
from prefrep.writers import leave

SIDECAR = "scores.meta.json"
# What may differ between the two halves of an interrupted run: scores do not depend on it.
_VOLATILE = {"versions", "batch_tokens", "layout", "device", "encoded"}
Pair = TypeVar("Pair", bound=PairScore)


def digest(records: Iterable[Record]) -> str:
    """A fingerprint of what is scored: texts, ids and subsets, in order."""
    found = hashlib.sha256()
    for record in records:
        fields = as_dict(record)
        fields.pop("source")  # the same data may stand in another file
        found.update(json.dumps(fields, sort_keys=True, default=str).encode())
    return found.hexdigest()


def prompt_digest(prompt: Messages) -> str:
    """Return a short digest of a prompt, which tells rows on one prompt; empty without a prompt."""
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16] if prompt else ""


def distinct(names: Iterable[str]) -> Iterator[str]:
    """Names as ids: the second "a" becomes "a#2", so that no two are equal.

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
        last[found] = 1
        yield found


def described(folder: Path) -> dict[str, Any]:
    """What stands beside the scores of a folder about where they come from; nothing, for scores from elsewhere."""
    try:
        return dict(json.loads((folder / SIDECAR).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def add_counts(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what this run counted while encoding (`encoded`: rows, truncations) to what earlier runs into this folder counted.

    Args:
        folder: The output folder.
        model: The model's description at the end of the run.

    Returns:
        The description with the sums; also kept beside the scores. A run that was killed has left no counts.
    """
    sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    counts = Counter(sidecar["model"].get("encoded", {}))
    counts.update(model.get("encoded", {}))
    counted = {**model, "encoded": dict(counts)}
    replace_json(folder / SIDECAR, {**sidecar, "model": json.loads(json.dumps(counted, default=str))})
    return counted


def encoding_notes(model: Mapping[str, Any], rows: int) -> list[str]:
    """What a reader of results must know of how texts were encoded.

    Args:
        model: The description with its counts, see `add_counts`.
        rows: How many were scored in all.
    """
    counts = model.get("encoded", {})
    cut = [f"{n} {what}" for what, n in counts.items() if what != "records" and n]
    notes = [f"while encoding: {', '.join(cut)}"] if cut else []
    seen = counts.get("records", 0)
    if seen < rows:
        notes.append(f"truncation was counted for {seen} of {rows} rows; the others are of a run that was cut off")
    return notes


class ScoreLog(Generic[Row]):
    """`scores.jsonl` of one evaluation, open for appending; use as a context manager.

    Rows that an interrupted run left are kept in `rows`, and scoring goes on behind them. A last line that was cut off is dropped.

    Args:
        folder: The output folder; made if needed.
        kind: What the rows are.
        identity: What the scores belong to: benchmark, model, data, ... Kept beside the scores.
        expected: (id, subset) of every row, in order.
        restart: Throw away what the folder holds.

    Raises:
        ConfigError: If the folder holds scores of something else, or another evaluation.
        RecordError: If a line other than the last one is broken.
    """

    name: ClassVar[str] = SCORES

    def __init__(
        self, folder: Path, kind: type[Row], identity: Mapping[str, Any], expected: Sequence[tuple[str, str]], restart: bool = False
    ) -> None:
        self.path = folder / self.name
        self.rows: list[Row] = []
        folder.mkdir(parents=True, exist_ok=True)
        stated = json.loads(json.dumps(identity, default=str))
        if restart:
            self.path.unlink(missing_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            self._check_owner(folder / SIDECAR, stated)
            self.rows = self._carry_on(kind, expected)
        else:
            if not restart and (other := described(folder).get("benchmark", stated["benchmark"])) != stated["benchmark"]:
                raise ConfigError(f"{folder}: holds an evaluation of another kind ({other}); choose another --out, or --restart it")
            replace_json(folder / SIDECAR, stated)

    def _check_owner(self, sidecar: Path, stated: dict[str, Any]) -> None:
        way_out = "choose another --out, or --restart to throw them away"
        try:
            found = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}: scores of an unknown model (no readable {SIDECAR}); {way_out}") from error
        for key in sorted(stated.keys() | found.keys()):
            old, new = found.get(key), stated.get(key)
            if isinstance(old, dict) and isinstance(new, dict):
                changed = sorted(k for k in (old.keys() | new.keys()) - _VOLATILE if old.get(k) != new.get(k))
                if changed:
                    raise ConfigError(f"{self.path}: scores of another {key} (differs in {', '.join(changed)}); {way_out}")
            elif old != new:
                shown = "" if key == "data" else f" ({old}, now {new})"
                raise ConfigError(f"{self.path}: scores of another {key}{shown}; {way_out}")

    def _carry_on(self, kind: type[Row], expected: Sequence[tuple[str, str]]) -> list[Row]:
        lines = self.path.read_bytes().split(b"\n")[:-1]  # behind the last line break stands what was cut off, or nothing
        rows = [parse_line(line.decode("utf-8", errors="replace"), f"{self.path}:{number}", kind) for number, line in enumerate(lines, 1)]
        names = [(row.id, row.subset) for row in rows]
        if names != list(expected[: len(names)]):
            raise ConfigError(f"{self.path}: its ids are not those of the data; choose another --out, or --restart to throw it away")
        keep_lines(self.path)
        return rows

    def __enter__(self) -> Self:
        with saving(self.path):
            self._file, self._kept = self.path.open("a", encoding="utf-8"), len(self.rows)
        return self

    def append(self, row: Row) -> None:
        """Adds a row, on disk at once. A stop that was asked for comes behind whole windows of rows.

        Raises:
            DataError: If a score is not finite.
            Stopped: A signal asked the program to stop.
        """
        if not all(math.isfinite(number) for number in self._numbers(row)):
            raise DataError(f"row {row.id!r} ({row.subset}): the model gave a score that is not finite; try --dtype float32")
        written = asdict(cast(Any, row))
        if written.get("rewards", ()) is None:  # the model has none
            del written["rewards"]
        with saving(self.path):
            self._file.write(json.dumps(written, ensure_ascii=False) + "\n")
            self._file.flush()
        self.rows.append(row)
        if (len(self.rows) - self._kept) % WINDOW == 0:  # what follows was computed together
            leave()

    @staticmethod
    def _numbers(row: Row) -> Sequence[float]:
        """What must be finite in a row."""
        return row.scores if isinstance(row, RankedScore) else (cast(PairScore, row).score,)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with saving(self.path):
            self._file.close()


class Rewarder(Protocol):
    """A model that has a reward for each response."""

    def compare_rewards(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[tuple[float, float, float]]:
        """Yield the log-odds of chosen over rejected, and the rewards of both."""


def log_pairs(
    comparer: Comparer, pairs: Sequence[Comparison], out: Path, kind: type[Pair], benchmark: str, model: Mapping[str, Any],
    restart: bool = False,
) -> list[Pair]:  # fmt: skip
    """Scores comparisons into `out/scores.jsonl`, going on where an interrupted run stopped.

    Args:
        comparer: The model, or another judge.
        pairs: What is compared.
        out: Output folder.
        kind: What the rows are; a `RewardScore` needs a `Rewarder`.
        benchmark: What the scores are for.
        model: What tells this comparer from others, kept beside the scores.
        restart: Throw away scores that the folder holds.

    Raises:
        DataError: A score is not finite.
        ConfigError: The folder holds scores of another model or other data.
    """
    identity = {"benchmark": benchmark, "model": dict(model), "data": digest(pairs)}
    with ScoreLog(out, kind, identity, [(pair.id, pair.subset) for pair in pairs], restart) as log:
        rest = pairs[len(log.rows) :]
        if kind is RewardScore:
            found = cast(Rewarder, comparer).compare_rewards(rest, progress=benchmark) if rest else ()
            for pair, (score, chosen, rejected) in zip(rest, found, strict=True):
                log.append(cast(Pair, RewardScore(pair.id, pair.subset, score, (chosen, rejected))))
            return log.rows
        for pair, score in zip(rest, comparer.compare(rest, progress=benchmark) if rest else (), strict=True):
            log.append(kind.of(pair, score))
        return log.rows
