"""The first wrong step of solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.scoring.loading import Scoring, fingerprint_of
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def steps(
    *, model: str, data: str, out: str, calibrate_on: str | None = None, format: str = "auto", restart: bool = False, **loading: Any
) -> dict[str, Any]:
    """Where solutions first go wrong: the model's value after each step.

    Rows are {"prompt", "steps": [TEXT], "first_wrong": INDEX or null}, ProcessBench's, or TRL's with a label for each step (PRM800K,
    Math-Shepherd). The first wrong step is the one with the largest drop of value, and with --calibrate-on also the first whose value is
    below a threshold, which gives ProcessBench's F1. For models with a reward, such as those trained with ValueLoss.

    Examples:
        prefrep eval steps --model runs/mine/export --data test.jsonl --calibrate-on val.jsonl --out runs/mine/steps

    Args:
        model: Exported folder of a model, its id on the hub or URL of a server.
        data: Solutions: file, folder or hub data set.
        out: Folder for the results; an interrupted run there is resumed.
        calibrate_on: Other solutions, on which the threshold is chosen.
        format: Format of the rows.
        restart: Discard the scores that the output folder holds.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: The model only compares, or the threshold would be chosen on the data that it is measured on.
        PrefrepError: Model or data cannot be read.
    """
    from prefrep.data.sources import Source, read
    from prefrep.errors import ConfigError
    from prefrep.evaluation import steps as evaluation
    from prefrep.evaluation.layout import model_name, versions, write_results
    from prefrep.evaluation.scores import add_counts, encoding_notes
    from prefrep.scoring.workers import open_scorer

    how, folder = Scoring(**loading), Path(out)
    # Data first and the model last: a wrong path should not cost the loading of a model.
    sets = {folder: data} | ({folder / "calibration": calibrate_on} if calibrate_on else {})
    known = {place: evaluation.solutions(read(Source(path, format)), path) for place, path in sets.items()}
    texts = [{(record.prompt, record.responses) for record in records} for records in known.values()]
    if len(texts) > 1 and texts[1] & texts[0]:
        both = len(texts[1] & texts[0])
        raise ConfigError(f"--calibrate-on {calibrate_on}: {both} of its solutions are in --data too; name other solutions")
    scorer = open_scorer(model, how)
    about = {"path": str(model), "fingerprint": fingerprint_of(model), **scorer.describe()}
    rows, *others = [evaluation.score(scorer, records, place, about, restart) for place, records in known.items()]
    described = add_counts(folder, scorer.describe() | {"path": str(model), "fingerprint": about["fingerprint"]})
    results = evaluation.evaluate(rows, *others)
    results["notes"] += encoding_notes(described, len(rows) + sum(map(len, others)))
    results |= {
        "data": data,
        "calibrate_on": calibrate_on,
        "model": {"name": model_name(model), **{key: value for key, value in described.items() if key != "versions"}},
        "versions": versions(described["versions"]),
    }
    path = write_results(folder, results)
    print("\n".join(evaluation.lines(results)))
    print(f"\nwritten: {path}, scores.jsonl")
    return results
