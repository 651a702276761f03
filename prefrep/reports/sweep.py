"""Reports of sweeps: models side by side and tests of their differences, from the folders of the points alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefrep.disk import replace_text
from prefrep.errors import PrefrepError
from prefrep.evaluation.pairs import PairRow
from prefrep.evaluation.rows import read_scores
from prefrep.reports.comparison import SHOWN, differences, mean
from prefrep.reports.document import Block, Plot, Section, Text, interval, notes, number, table
from prefrep.reports.markdown import write as write_markdown
from prefrep.sweeps import plots
from prefrep.sweeps.table import DRAWS, Model, PairTest, Run, as_csv, compare, models, pairs_csv, read_runs, subsets, unfinished


def write(out: Path) -> None:
    """Write `table.csv`, `pairs.csv` and `report.md` with its plots, for the points that are finished.

    Args:
        out: The sweep's folder.

    Raises:
        DataError: A file of a point is damaged.
    """
    runs = _read(out)
    found = models(runs)
    tests = compare(found)
    replace_text(out / "table.csv", as_csv(runs))
    replace_text(out / "pairs.csv", pairs_csv(tests))
    write_markdown(Section("Sweep", tuple(_blocks(runs, found, tests, unfinished(out, runs)))), out / "report.md")


def section(out: Path, title: str) -> Section:
    """Return the report of a sweep as a section of another report.

    Args:
        out: The sweep's folder.
        title: The heading.
    """
    try:
        runs = _read(out)
    except PrefrepError as error:
        return Section(title, (Text(str(error), strong=True),))
    found = models(runs)
    return Section(title, tuple(_blocks(runs, found, compare(found), unfinished(out, runs))))


def _read(out: Path) -> list[Run]:
    return read_runs(out, lambda path: read_scores(path, PairRow))


def _blocks(runs: Sequence[Run], found: Sequence[Model], tests: Sequence[PairTest], left: int) -> list[Block]:
    done = sum(bool(run.verdicts) for run in runs)
    blocks: list[Block] = [Text(f"{done} points of {len(found)} models." if found else "No point is finished.")]
    if left:
        blocks.append(Text(f"Points that are not finished yet: {left}. Models may lack seeds, or be missing.", strong=True))
    if len({model.data for model in found}) > 1:
        words = (
            "Not all points were evaluated on the same comparisons: the validation data differ or changed between two starts. Models are"
        )
        blocks.append(Text(f"{words} tested against each other if their data are the same.", strong=True))
    recipes = {(run.about["model"], run.about.get("recipe", "")) for run in runs if run.verdicts}
    if len(recipes) > len({model for model, _ in recipes}):
        words = "Not all seeds of a model were trained with the same settings and data: these changed between two starts, or an older start"
        blocks.append(Text(f"{words} did not record them. Seeds with the same ones are shown as a separate model.", strong=True))
    if found:
        blocks += [_accuracies(found), *notes(_which_intervals(found))]
        if names := subsets(found):
            rows = [(each.name, *(mean(each.accuracies(name)) for name in names)) for each in found]
            blocks.append(Section("By subset, means over seeds", (table(("model", *(name or "(no subset)" for name in names)), rows),)))
    if len(found) > 1:
        blocks.append(Section("Differences between models", tuple(differences(tests, _remarks(tests)))))
    blocks += _plots(found)
    if failed := [(str(run.about["name"]), str(run.about.get("reason", ""))) for run in runs if not run.verdicts]:
        blocks.append(Section("Failed points", (table(("point", "reason"), failed),)))
    return blocks


def _accuracies(found: Sequence[Model]) -> Block:
    rows = []
    for each in found:
        values = each.accuracies()
        spread = number(float(np.std(values, ddof=1))) if len(values) > 1 else "-"
        over = interval(each.interval_over_examples())
        rows.append((each.name, str(len(values)), str(len(each.by_example)), mean(values), interval(each.interval()), spread, over))
    return table(("model", "seeds", "n", "accuracy", "95 %", "sd over seeds", "95 % over examples"), rows)


def _which_intervals(found: Sequence[Model]) -> list[str]:
    lines = [
        "Accuracy is the mean over seeds. A seed determines the initial weights of the head, the order of the training examples and, with "
        "adapters, their initial weights and dropout."
    ]
    several = any(len(model.runs) > 1 for model in found)
    if several:
        lines.append("95 %: Student's t over seeds: other seeds on these examples, clipped to [0, 1].")
    if any(model.interval() is None for model in found):
        lines.append("95 % is a dash if all seeds have the same accuracy, which gives no estimate of their spread.")
    if any(len(model.runs) == 1 for model in found):
        how = "Wilson's interval over examples" + ("" if all(model.independent for model in found) else ", counting each prompt once")
        lines.append(f"95 %{' of a model with one seed' if several else ''}: {how}; one seed has no spread.")
    together = "" if all(model.independent for model in found) else ", resampling prompts"
    lines.append(
        f"95 % over examples: bootstrap ({DRAWS} draws{together}) of the mean over seeds: these trained models on other examples. If "
        "these examples also chose the checkpoint that a run exports, it is optimistic."
    )
    return lines


def _remarks(tests: Sequence[PairTest]) -> list[str]:
    """Return remarks on where all tests are, and on the role of seeds."""
    elsewhere = ["The sweep's pairs.csv has all pairs."] if len(tests) > SHOWN else []
    if not any(test.seeds for test in tests):
        return elsewhere
    return [
        *elsewhere,
        "The difference is that of accuracies averaged over seeds. McNemar's test uses the majority verdict of a model's seeds and leaves "
        "out examples that split them evenly. Both generalise these trained models to other examples. The last column, Student's t over "
        "the seeds that both have (not corrected), generalises to other seeds; a dash: fewer than two such seeds, or equal differences.",
    ]


def _plots(found: Sequence[Model]) -> list[Plot]:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        names = plots.draw(found, out) if found else []
        return [Plot(Path(name).stem, (out / name).read_bytes(), "png", _caption(name)) for name in names]


def _caption(name: str) -> str:
    what = Path(name).stem.removeprefix("accuracy-")
    return "Accuracy by subset." if what == "subsets" else f"Accuracy against {what}."
