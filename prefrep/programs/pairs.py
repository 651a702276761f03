"""Any file of comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefrep.records import Comparison
from prefrep.scoring.loading import Scoring
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def pairs(
    *,
    model: str,
    data: str,
    out: str,
    calibrate_on: str | None = None,
    format: str = "auto",
    column: list[str] | None = None,
    criterion: str | None = None,
    by: Literal["subset", "group", "annotator"] = "subset",
    control: Literal["wrong-group", "shuffled-groups"] | None = None,
    restart: bool = False,
    bootstrap: int = 2000,
    seed: int = 0,
    **loading: Any,
) -> dict[str, Any]:
    """Any comparisons: accuracy, agreement by length and margin, calibration.

    Comparisons are kept in a temporary file in TMPDIR, so that any number fits.
    Calibration: Brier score, log loss, calibration error and a reliability diagram. Every pair among K scored responses is one comparison.
    A model with several objectives also gets a table of each; the temperature is that of the score in which they are weighed.

    Examples:
        prefrep eval pairs --model runs/mine/export --data test.jsonl --calibrate-on val.jsonl --out runs/mine/pairs

    Args:
        model: Exported folder of a model, its id on the hub, URL of a server, or a judge that writes (YAML file or
            `GenerativeJudge model=NAME ...`).
        data: Comparisons: file, folder or hub data set.
        out: Folder for the results; an interrupted run there is resumed.
        calibrate_on: Other comparisons, on which one temperature is fitted.
        format: Format of the rows; `auto` detects it from the columns.
        column: Another name of a column, as OURS=THEIRS; may be repeated.
        criterion: Only comparisons of this criterion; of responses rated on aspects, the aspect that is their score.
        by: What accuracy is reported by.
        control: Evaluate with groups that are not the records' own: each gets a wrong one, or all are dealt at random. What a model with
            `data.context: group` loses is what it makes of them.
        restart: Discard the scores that the output folder holds.
        bootstrap: Resamples for the intervals.
        seed: Seed of the resampling.
        **loading: See `prefrep.scoring.loading.Scoring`.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: The temperature would be fitted on the data that it is measured on.
        PrefrepError: Model or data cannot be read.
    """
    from prefrep.data.context import control as other_groups
    from prefrep.data.fields import renamed
    from prefrep.data.sources import Source, read
    from prefrep.data.spool import Spool
    from prefrep.disk import replace_lines
    from prefrep.evaluation import pairs as evaluation
    from prefrep.evaluation.layout import model_name, versions, write_results
    from prefrep.evaluation.objectives import objective_lines, results_by_objective
    from prefrep.evaluation.printed import pair_lines
    from prefrep.evaluation.reliability import PLOT, reliability_plot
    from prefrep.evaluation.scores import encoding_notes
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.evaluation.verdicts import check, keep_verdicts
    from prefrep.judges.named import identity_of, open_model

    how, draws, folder = Scoring(**loading), Bootstrap(bootstrap, seed), Path(out)

    def comparisons(path: str, name: str = "subset") -> Spool[Comparison]:
        records = read(Source(path, format, criterion=criterion, columns=renamed(column)))
        if name != "subset":
            records = (replace(each, subset=getattr(each, name)) for each in records)
        return evaluation.comparisons_of(records)

    # Data first and the model last: a wrong path should not cost the loading of a model.
    evaluated = comparisons(data, by)
    if control is not None:
        evaluated = Spool(other_groups(evaluated, control, seed))
    held_out = comparisons(calibrate_on) if calibrate_on else None
    notes = [] if held_out is None else evaluation.check_apart(str(calibrate_on), held_out, evaluated)
    scorer = open_model(model, how)
    about = identity_of(str(model), scorer)
    rows, described = evaluation.score(scorer, evaluated, folder, about, restart)
    keep_verdicts(scorer, evaluated, folder)
    others = None if held_out is None else evaluation.score(scorer, held_out, folder / "calibration", about, restart)[0]
    worst = evaluation.mistakes(rows, evaluated)
    del evaluated, held_out  # they are large
    results = evaluation.evaluate(rows, others, draws)
    if each := results_by_objective(rows, lambda found: evaluation.evaluate(found, None, draws)):
        results["objectives"] = each
    results["notes"] += notes + encoding_notes(described, len(rows))
    if control is not None and not described.get("encode", {}).get("context"):
        results["notes"].append(f"the prompts of this model name no group, so that the control {control} changes nothing that it reads")
    results |= {
        "data": data,
        "criterion": criterion,
        "by": by,
        "control": control,
        "calibrate_on": calibrate_on,
        "model": {"name": model_name(about["path"]), **{key: value for key, value in described.items() if key != "versions"}},
        "versions": versions(described.get("versions")),
    }
    replace_lines(folder / evaluation.MISTAKES, worst)
    reliability_plot(results, folder / PLOT)
    path = write_results(folder, results)
    print("\n".join([*pair_lines(results), *objective_lines(results, pair_lines)]))
    print(f"\nwritten: {path}, scores.jsonl, {evaluation.MISTAKES}, {PLOT}")
    check(scorer)
    return results
