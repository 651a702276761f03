"""One path for benchmarks of reward models: rows to records, records to scores, scores to results, results to files.

A benchmark is data: its name, where its rows are, and two functions. A new one is an entry here and a program that states its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrep.errors import ConfigError, UsageError
from prefrep.evaluation.scores import PairScore, RankedScore, add_counts, encoding_notes, read_scores
from prefrep.evaluation.scores import described as sidecar_of
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Record
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.loading import Scoring
from prefrep.writers import writes


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of reward models, with its options decided.

    Args:
        name: Name, which is also the format of its rows.
        hub: Where its rows are, unless the caller names data.
        kind: Class of a scored row.
        score: Scores records into a folder: (scorer, records, folder, description of the model, whether to restart) -> rows.
        results: Numbers of scored rows: (rows, what is known of their model, bootstrap) -> content of `results.json`.
    """

    name: str
    hub: str
    kind: type[PairScore] | type[RankedScore]
    score: Callable[[PreferenceScorer, list[Record], Path, Mapping[str, Any], bool], list[Any]]
    results: Callable[[list[Any], Mapping[str, Any], Bootstrap], dict[str, Any]]


@writes("out", folder=True, stops=True)
def run(
    benchmark: Benchmark,
    *,
    out: str,
    model: str | None = None,
    scores: str | None = None,
    data: str | None = None,
    restart: bool = False,
    name: str | None = None,
    also_swap: bool = False,
    bootstrap: int = 2000,
    seed: int = 0,
    **loading: Any,
) -> dict[str, Any]:
    """Evaluate a model, or saved scores, on a benchmark.

    Args:
        benchmark: The benchmark.
        out: Folder for the results; an interrupted run there is resumed.
        model: Exported folder of a model.
        scores: `scores.jsonl` of an earlier evaluation, evaluated again without a model.
        data: File, folder or hub data set; default: the benchmark's own on the hub.
        restart: Discard the scores that the output folder holds.
        name: Name of the model in the official files; default: the last two parts of its path.
        also_swap: Also compare with chosen and rejected swapped.
        bootstrap: Resamples for the intervals.
        seed: Seed of the resampling.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    if (model is None) == (scores is None):
        raise UsageError("name either --model FOLDER or --scores FILE")
    if needless := [option for option, value in (("--data", data), ("--also-swap", also_swap), ("--restart", restart)) if scores and value]:
        raise UsageError(f"{needless[0]} needs --model; --scores only reads saved scores")
    how, draws, folder = Scoring(**loading), Bootstrap(bootstrap, seed), Path(out)
    records: list[Record] = []
    described: dict[str, Any] = {}
    swap = None
    if scores is not None:
        beside = _beside(Path(scores), folder, benchmark.name)
        rows, described = read_scores(scores, benchmark.kind), beside.get("model", {})
        source = {"scores": str(scores)}
    else:
        assert model is not None
        beside, source = {}, {"data": data or benchmark.hub}
        rows, described, records, swap = _scored(benchmark, model, data or benchmark.hub, folder, restart, also_swap, how)
    results = benchmark.results(rows, beside | {"pairwise": described.get("pairwise")}, draws) | source
    if swap is not None:
        results["swap"] = swap
    from prefrep.evaluation.layout import model_name

    shown = name or model_name(described.get("path") or Path(str(scores)).resolve().parent)
    _write(folder, results, rows, records, described, shown)
    return results


def _beside(scores: Path, out: Path, benchmark: str) -> dict[str, Any]:
    """What stands beside saved scores about the model that gave them; nothing, for scores from elsewhere."""
    folder = scores.resolve().parent
    if out.resolve() == folder:
        raise ConfigError(f"--out {out}: holds the scores themselves, and its results know the data; choose another folder")
    if (other := sidecar_of(out).get("benchmark", benchmark)) != benchmark:
        raise ConfigError(f"--out {out}: holds an evaluation of another kind ({other}); choose another folder")
    found = sidecar_of(folder)
    if found.get("benchmark", benchmark) != benchmark:
        raise ConfigError(f"{scores}: scores of {found.get('benchmark')}; use `prefrep eval {found.get('benchmark')}`")
    return found


def _scored(
    benchmark: Benchmark, model: str, data: str, out: Path, restart: bool, also_swap: bool, how: Scoring
) -> tuple[list[Any], dict[str, Any], list[Record], dict[str, Any] | None]:
    """Rows, the model's description with what it counted while encoding, the records, and consistency under swapping."""
    from prefrep.data.sources import Source, read
    from prefrep.evaluation.rewardbench import swap_consistency
    from prefrep.io.fingerprint import fingerprint
    from prefrep.scoring.workers import open_scorer

    records = list(read(Source(data, format=benchmark.name)))  # before the model: a wrong path should not cost its loading
    scorer = open_scorer(model, how)
    about = {"path": str(model), "fingerprint": fingerprint(model), **scorer.describe()}
    rows = benchmark.score(scorer, records, out, about, restart)
    described = add_counts(out, {**about, **scorer.describe()})  # before swapping, which encodes everything again
    return rows, described, records, swap_consistency(scorer, records) if also_swap else None


def _write(out: Path, results: dict[str, Any], rows: list[Any], records: list[Record], model: dict[str, Any], name: str) -> None:
    """Write `results.json` and the official files, and print the table."""
    from prefrep.evaluation.layout import versions, write_official, write_results
    from prefrep.evaluation.printed import benchmark_lines

    plain = {key: value for key, value in model.items() if key != "versions"}
    results |= {"model": {"name": name, **plain}, "versions": versions(model.get("versions"))}
    results["notes"] += encoding_notes(model, len(rows)) if model else ["the model that gave these scores is not known"]
    out.mkdir(parents=True, exist_ok=True)
    model_type = "Custom Classifier" if model.get("pairwise", True) else "Seq. Classifier"
    official = write_official(out, results, rows, records, {"model": name, "model_type": model_type})
    path = write_results(out, results)
    print("\n".join(benchmark_lines(results)))
    print(f"\nwritten: {path}, {', '.join(str(each.relative_to(out)) for each in official)}")
