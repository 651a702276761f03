"""One path for benchmarks of reward models: rows to records, records to scores, scores to results, results to files.

A benchmark is data: its name, where its rows are, and a few functions. A new one is an entry in `prefrep.evaluation.registry` and a program
that states its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrep.errors import ConfigError, UsageError
from prefrep.evaluation.rows import ScoreRow, read_scores
from prefrep.evaluation.scores import add_counts, encoding_notes
from prefrep.evaluation.scores import described as sidecar_of
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Comparison, Record
from prefrep.scoring.interface import PreferenceScorer
from prefrep.scoring.loading import Scoring
from prefrep.writers import writes


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of reward models with its options set.

    Args:
        name: Name of the benchmark.
        hub: Data sets on the hub with its rows, unless the caller names data; empty: the caller must.
        kind: Class of a scored row.
        score: Scores records into a folder: (scorer, records, folder, description of the model, whether to restart) -> rows.
        results: Aggregates scored rows: (rows, what is known about their model, bootstrap) -> content of `results.json`.
        files: Writes further files: (folder, results, rows, records or none) -> their paths.
        pairs: Comparisons that `--also-swap` scores in both orders.
        format: Format of the rows.
    """

    name: str
    hub: tuple[str, ...]
    kind: type[ScoreRow]
    score: Callable[[PreferenceScorer, list[Record], Path, Mapping[str, Any], bool], list[Any]]
    results: Callable[[list[Any], Mapping[str, Any], Bootstrap], dict[str, Any]]
    files: Callable[[Path, Mapping[str, Any], list[Any], list[Record]], list[Path]]
    pairs: Callable[[list[Record]], list[Comparison]]
    format: str


@writes("out", folder=True, stops=True)
def run(
    benchmark: Benchmark,
    *,
    out: str,
    model: str | None = None,
    scores: str | None = None,
    data: str | list[str] | None = None,
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
        model: Exported folder of a model, its id on the hub, URL of a server, or a judge that writes (YAML file or
            `GenerativeJudge model=NAME ...`).
        scores: `scores.jsonl` of an earlier evaluation, evaluated again without a model.
        data: File, folder or hub data set, or several; default: the benchmark's own on the hub.
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
    if scores is not None:
        return again(benchmark, scores, folder, draws, name)
    assert model is not None
    from prefrep.judges.named import open_model

    records = read_records(benchmark, data)  # before the model: a wrong path should not cost the time to load it
    scorer = open_model(model, how)
    return evaluate(benchmark, scorer, model, records, data, folder, draws, restart=restart, name=name, also_swap=also_swap)


def read_records(benchmark: Benchmark, data: str | Sequence[str] | None) -> list[Record]:
    """Read the rows of a benchmark.

    Args:
        benchmark: The benchmark.
        data: Files, folders or hub data sets; None: the benchmark's own.

    Raises:
        UsageError: The benchmark has no data set on the hub, and none is named.
        PrefrepError: A source cannot be read.
    """
    from prefrep.data.sources import Source, read

    if not (sources := _sources(benchmark, data)):
        raise UsageError(f"name the rows of {benchmark.name} with --data; the benchmark has no dataset on the hub that prefrep can read")
    return [record for source in sources for record in read(Source(source, format=benchmark.format))]


def _sources(benchmark: Benchmark, data: str | Sequence[str] | None) -> list[str]:
    return [data] if isinstance(data, str) else list(benchmark.hub if data is None else data)


def evaluate(
    benchmark: Benchmark,
    scorer: PreferenceScorer,
    model: str,
    records: list[Record],
    data: str | Sequence[str] | None,
    out: Path,
    bootstrap: Bootstrap,
    *,
    restart: bool = False,
    name: str | None = None,
    also_swap: bool = False,
) -> dict[str, Any]:
    """Evaluate a loaded model.

    Args:
        benchmark: The benchmark.
        scorer: The model.
        model: Its folder.
        records: Rows, from `read_records`.
        data: Where they were read from.
        out: Folder for the results.
        bootstrap: Settings of the bootstrap.
        restart: See `run`.
        name: See `run`.
        also_swap: See `run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: The records do not fit the benchmark, or the folder holds something else.
    """
    from prefrep.evaluation.layout import model_name
    from prefrep.evaluation.rewardbench import swap_consistency
    from prefrep.evaluation.verdicts import check, keep_verdicts
    from prefrep.judges.named import identity_of

    before = dict(scorer.describe().get("encoded", {}))  # counted by the same scorer for other benchmarks
    about = identity_of(str(model), scorer) | ({"encoded": dict.fromkeys(before, 0)} if before else {})
    rows = benchmark.score(scorer, records, out, about, restart)
    counted = {what: n - before.get(what, 0) for what, n in scorer.describe().get("encoded", {}).items()}
    encoded = {"encoded": counted} if counted else {}
    described = add_counts(out, {**about, **scorer.describe(), **encoded})  # before the swapped comparisons, which are encoded too
    keep_verdicts(scorer, records, out)
    sources = _sources(benchmark, data)
    results = _results(benchmark, rows, {"pairwise": described.get("pairwise")}, bootstrap)
    results |= {"data": sources[0] if len(sources) == 1 else sources}
    if also_swap:
        results["swap"] = swap_consistency(scorer, benchmark.pairs(records))
    _write(benchmark, out, results, rows, records, described, name or model_name(about["path"]))
    check(scorer)
    return results


def again(benchmark: Benchmark, scores: str, out: Path, bootstrap: Bootstrap, name: str | None = None) -> dict[str, Any]:
    """Evaluate saved scores again, without a model.

    Args:
        benchmark: The benchmark.
        scores: `scores.jsonl` of an earlier evaluation, or scores of another tool.
        out: Folder for the results.
        bootstrap: Settings of the bootstrap.
        name: See `run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: The scores cannot be read, or are of another benchmark.
    """
    from prefrep.evaluation.layout import model_name

    beside = _beside(Path(scores), out, benchmark.name)
    rows, described = read_scores(scores, benchmark.kind), beside.get("model", {})
    results = _results(benchmark, rows, beside | {"pairwise": described.get("pairwise")}, bootstrap) | {"scores": str(scores)}
    _write(benchmark, out, results, rows, [], described, name or model_name(described.get("path") or Path(scores).resolve().parent))
    return results


def _results(benchmark: Benchmark, rows: list[Any], known: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the results of all rows, and of a model with several objectives those of each."""
    from prefrep.evaluation.objectives import results_by_objective

    each = results_by_objective(rows, lambda found: benchmark.results(found, known, bootstrap))
    return benchmark.results(rows, known, bootstrap) | ({"objectives": each} if each else {})


def _beside(scores: Path, out: Path, benchmark: str) -> dict[str, Any]:
    """Return what is recorded beside saved scores about the model that gave them; empty for scores from other tools."""
    folder = scores.resolve().parent
    if out.resolve() == folder:
        raise ConfigError(f"--out {out}: holds the scores themselves, with results that know the data; choose another folder")
    if (other := sidecar_of(out).get("benchmark", benchmark)) != benchmark:
        raise ConfigError(f"--out {out}: holds an evaluation of another kind ({other}); choose another folder")
    found = sidecar_of(folder)
    if found.get("benchmark", benchmark) != benchmark:
        raise ConfigError(f"{scores}: scores of {found.get('benchmark')}; use `prefrep eval {found.get('benchmark')}`")
    return found


def _write(
    benchmark: Benchmark, out: Path, results: dict[str, Any], rows: list[Any], records: list[Record], model: dict[str, Any], name: str
) -> None:
    """Write `results.json` and the benchmark's further files, and print the table."""
    from prefrep.evaluation.layout import versions, write_results
    from prefrep.evaluation.objectives import objective_lines
    from prefrep.evaluation.printed import benchmark_lines

    plain = {key: value for key, value in model.items() if key != "versions"}
    results |= {"model": {"name": name, **plain}, "versions": versions(model.get("versions"))}
    results["notes"] += encoding_notes(model, len(rows)) if model else ["the model that gave these scores is unknown"]
    out.mkdir(parents=True, exist_ok=True)
    more = benchmark.files(out, results, rows, records)
    path = write_results(out, results)
    print("\n".join([*benchmark_lines(results), *objective_lines(results, benchmark_lines)]))
    print(f"\nwritten: {', '.join(map(str, (path, *(each.relative_to(out) for each in more))))}")
