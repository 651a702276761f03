"""Every benchmark whose rows a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.scoring.loading import Scoring
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def every(
    *,
    model: str,
    data: str,
    out: str,
    restart: bool = False,
    name: str | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
    **loading: Any,
) -> dict[str, dict[str, Any]]:
    """Every benchmark whose rows a folder holds, with the default options.

    Each file belongs to the benchmark that its first row looks like, whatever the folders are called; other files are left out and named.
    Each benchmark has a folder in the output folder, and `prefrep report` sets them side by side. The model is loaded once.

    Examples:
        prefrep eval all --model runs/mine/export --data bench-rows/ --out runs/mine/benchmarks

    Args:
        model: Exported folder of a model, its id on the hub, URL of a server, or a judge that writes.
        data: Folder with files of benchmarks; sub-folders are searched too.
        out: Folder for the results; an interrupted run there is resumed.
        restart: Discard the scores that the output folder holds.
        name: Name of the model in the official files; default: the last two parts of its path.
        bootstrap: Resamples for the intervals.
        seed: Seed of the resampling.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The content of each `results.json`, by benchmark.

    Raises:
        DataError: The folder holds no benchmark.
        PrefrepError: Model or data cannot be read.
    """
    from prefrep.errors import DataError
    from prefrep.evaluation import benchmarks
    from prefrep.evaluation.printed import overview_lines
    from prefrep.evaluation.registry import benchmarks as known
    from prefrep.evaluation.registry import find
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.judges.named import open_model

    how, draws, (found, left) = Scoring(**loading), Bootstrap(bootstrap, seed), find(data)
    if not found:
        raise DataError(f"{data}: none of its files belongs to a benchmark ({'; '.join(left):.500}); known: {', '.join(known())}")
    for sentence in left:
        print(f"left out: {sentence}")
    records = {each: benchmarks.read_records(known()[each], files) for each, files in found.items()}
    scorer = open_model(model, how)
    results = {}
    for each, rows in records.items():
        print(f"\n{each}: {len(rows)} rows of {', '.join(found[each])}\n")
        results[each] = benchmarks.evaluate(
            known()[each], scorer, model, rows, found[each], Path(out) / each, draws, restart=restart, name=name
        )
    print("\n".join(["", *overview_lines(results)]))
    return results
