"""The content of run folders for reports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrep.errors import DataError
from prefrep.evaluation.layout import RESULTS
from prefrep.evaluation.registry import JUDGED
from prefrep.evaluation.scores import SIDECAR

BENCHMARKS = (
    "pairs", "rewardbench", "rewardbench2", "intransitivity", "judge", "leaderboard", "winrate", "league", "label", "steps", *JUDGED,
)  # fmt: skip
METRICS = "metrics.jsonl"
# Points belong to their sweep and `calibration` to the evaluation above it; the others hold no results.
_CLOSED = {"points", "calibration", "checkpoints", "export", "logs", "rounds"}


@dataclass(frozen=True)
class Evaluation:
    """The output folder of an evaluation.

    Args:
        folder: The folder.
        name: Name in the report.
        results: Its `results.json`.
        data: Digest of the data, if it was kept beside the scores.
    """

    folder: Path
    name: str
    results: Mapping[str, Any]
    data: str | None

    @property
    def benchmark(self) -> str:
        """Kind of evaluation."""
        return str(self.results["benchmark"])


@dataclass(frozen=True)
class Run:
    """A run folder.

    Args:
        folder: The folder.
        name: Name in the report.
        config: Its configuration as written.
        export: Description of its exported folder.
        metrics: Lines of `metrics.jsonl`.
        rounds: Metrics of the rounds of post-training, by number.
        evaluations: Evaluations in it.
        sweeps: Folders of sweeps in it, or the folder itself.
        problems: Files that could not be read, a sentence each.
    """

    folder: Path
    name: str
    config: str | None
    export: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]
    rounds: Mapping[int, Mapping[str, float]]
    evaluations: Sequence[Evaluation]
    sweeps: Sequence[Path]
    problems: Sequence[str]


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the content of folders, each with a unique name.

    Args:
        folders: Run folders, evaluation folders, sweep folders.

    Raises:
        DataError: One of them is not a folder, or has no content for a report.
    """
    distinct = list({path.resolve(): path for path in folders}.values())
    short = [path.resolve().name for path in distinct]
    names = [str(path) if short.count(name) > 1 else name for path, name in zip(distinct, short, strict=True)]
    return [_run(path, name) for path, name in zip(distinct, names, strict=True)]


def _run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name output folders of prefrep fit, prefrep eval, prefrep label or prefrep sweep")
    problems: list[str] = []
    evaluations, sweeps = _below(folder, name, problems)
    metrics, config = _metrics(folder / METRICS, problems), _config(folder)
    rounds = {
        int(path.parent.name): found
        for path in sorted(folder.glob("rounds/*/metrics.json"))
        if path.parent.name.isdigit() and (found := _json(path, problems))
    }
    export = _json(folder / "export" / "prefrep.json", problems) if (folder / "export" / "prefrep.json").is_file() else {}
    if not (evaluations or sweeps or metrics or rounds):
        said = f" ({'; '.join(problems)})" if problems else ""
        raise DataError(
            f"{folder}: nothing to report on{said}: no {METRICS} of a training, no {RESULTS} of an evaluation, no points/ of a sweep; "
            "name an output folder of prefrep fit, prefrep eval, prefrep label or prefrep sweep"
        )
    return Run(folder, name, config, export, metrics, dict(sorted(rounds.items())), evaluations, sweeps, problems)


def _below(folder: Path, name: str, problems: list[str]) -> tuple[list[Evaluation], list[Path]]:
    evaluations, sweeps = [], []
    for place, inside, files in os.walk(folder):
        path = Path(place)
        if "points" in inside and any(path.glob("points/*/point.json")):
            sweeps.append(path)
        inside[:] = sorted(set(inside) - _CLOSED)
        if RESULTS in files:
            results = _json(path / RESULTS, problems)
            if results.get("benchmark") in BENCHMARKS:
                label = str(path.relative_to(folder)) if path != folder else name
                data = _json(path / SIDECAR, problems).get("data") if SIDECAR in files else None
                evaluations.append(Evaluation(path, label, results, data))
    return evaluations, sweeps


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read ({error})")
        return {}
    return found if isinstance(found, dict) else {}


def _metrics(path: Path, problems: list[str]) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    found: list[dict[str, float]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            float(values["step"])
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # the last line may be incomplete if the run continues or was killed
                problems.append(f"{path}:{number}: not a line of metrics")
            continue
        found.append({key: value for key, value in values.items() if isinstance(value, int | float)})
    return found


def _config(folder: Path) -> str | None:
    """Return the configuration of the last start."""
    versions = [path for path in folder.glob("logs/version_*/config.yaml") if path.parent.name.removeprefix("version_").isdigit()]
    versions.sort(key=lambda path: int(path.parent.name.removeprefix("version_")))
    for path in [folder / "config.yaml", *reversed(versions)]:
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file; none if there is no such file.

    Raises:
        DataError: A line is not an object.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # splitlines() also splits at U+2028
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: found {type(row).__name__}, need an object")
            found.append(row)
    return found
