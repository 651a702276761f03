"""Per-sample scores on disk: rows of `scores.jsonl`, written as scoring goes, read back, and carried on after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from prefrep.disk import keep_lines, replace_json
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.judges import Comparer
from prefrep.records import Comparison, Messages, Record, as_dict
from prefrep.room import saving
from prefrep.scoring.workers import WINDOW
from prefrep.writers import leave

SCORES = "scores.jsonl"
SIDECAR = "scores.meta.json"
# What may differ between the two halves of an interrupted run: scores do not depend on it.
_VOLATILE = {"versions", "batch_tokens", "layout", "device", "encoded"}


def finite(value: object) -> float:
    """Return a score of a row, a finite number. Raises ValueError: it is something else."""
    if isinstance(value, list) and len(value) == 1:  # the official tools save each score as a list of one number
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a score must be a finite number, found {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class PairScore:
    """A comparison that got a score.

    Args:
        id: Of the pair.
        subset: That it belongs to.
        score: Log-odds of chosen over rejected.
    """

    form: ClassVar[str] = '{"id", "subset", "score"}'

    id: str
    subset: str
    score: float

    @classmethod
    def of(cls, pair: Comparison, score: float) -> Self:
        """The row of a comparison and its score, wherever that came from."""
        return cls(pair.id, pair.subset, float(score))

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """A row of `scores.jsonl`; raises `ValueError` or `KeyError` when it is not one."""
        return cls(str(row["id"]), str(row["subset"]), finite(row["score"]))


@dataclass(frozen=True, slots=True)
class RewardScore(PairScore):
    """A comparison that got a score; with a model that has rewards, also those of both answers.

    Args:
        rewards: Of chosen and rejected, divided by tau; None: the model only compares.
    """

    rewards: tuple[float, float] | None = None

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """A row of `scores.jsonl`; raises `ValueError` or `KeyError` when it is not one."""
        given = row.get("rewards")
        if given is not None and (not isinstance(given, list) or len(given) != 2):
            raise ValueError(f"rewards must be those of two answers, found {given!r}")
        rewards = None if given is None else (finite(given[0]), finite(given[1]))
        return cls(str(row["id"]), str(row["subset"]), finite(row["score"]), rewards)


@dataclass(frozen=True, slots=True)
class RankedScore:
    """One prompt of RewardBench 2.

    Args:
        id: Of the prompt.
        subset: That it belongs to.
        num_correct: So many of the scores, the first ones, belong to correct answers.
        scores: One per answer.
    """

    form: ClassVar[str] = '{"id", "subset", "num_correct", "scores": [...]}'

    id: str
    subset: str
    num_correct: int
    scores: tuple[float, ...]

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """A row of `scores.jsonl`; raises `ValueError` or `KeyError` when it is not one."""
        scores = tuple(finite(value) for value in row["scores"])
        if not 1 <= int(row["num_correct"]) <= len(scores):
            raise ValueError(f"num_correct is {row['num_correct']} with {len(scores)} scores")
        return cls(str(row["id"]), str(row["subset"]), int(row["num_correct"]), scores)


class ScoreRow(Protocol):
    """A row of per-sample scores: a frozen dataclass that parses what it wrote."""

    form: ClassVar[str]

    @property
    def id(self) -> str:
        """Name of the sample."""

    @property
    def subset(self) -> str:
        """Subset that it belongs to."""

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Read a row; raises `ValueError` or `KeyError` when it is not one."""


Row = TypeVar("Row", bound=ScoreRow)
Pair = TypeVar("Pair", bound=PairScore)


def read_scores(path: str | Path, kind: type[Row]) -> list[Row]:
    """Reads a whole file of per-sample scores.

    Args:
        path: A `scores.jsonl`.
        kind: What its rows are.

    Raises:
        DataError: If there is no such file, or nothing in it.
        RecordError: If a row is not of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; --scores reads the {SCORES} of an earlier evaluation")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() also breaks at U+2028, which JSON may hold
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason})") from error
    rows = [_parse(line, f"{path}:{number}", kind) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: holds no scores")
    return rows


def _parse(line: str, source: str, kind: type[Row]) -> Row:
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
        remedy = f"each line must be {wanted}" + ("; the other benchmark's scores need the other sub-command" if other else "")
        raise RecordError(source, f"no {error.args[0]!r} (found: {', '.join(row)})", remedy) from error
    except (TypeError, ValueError) as error:
        raise RecordError(source, str(error), f"each line must be {wanted}") from error


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
    """Names as ids: the second "a" becomes "a#2", so that no two are equal."""
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
        rows = [_parse(line.decode("utf-8", errors="replace"), f"{self.path}:{number}", kind) for number, line in enumerate(lines, 1)]
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
