"""The report of a sweep, written from the folders of its points: accuracies with intervals, and which differences are real."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prefrep.disk import replace_text
from prefrep.metrics.intervals import Interval
from prefrep.sweep.plots import draw
from prefrep.sweep.table import DRAWS, LEVEL, Model, PairTest, Row, Run, as_csv, compare, models, read_runs, subsets

SHOWN = 20  # pairs in the report; pairs.csv has all


def write(out: Path, read: Callable[[Path], Sequence[Row]]) -> None:
    """Writes `table.csv`, `pairs.csv`, `report.md` and plots of what is finished by now.

    Args:
        out: The sweep's folder.
        read: Reads a `scores.jsonl`.

    Raises:
        DataError: A file of a point is damaged.
    """
    runs = read_runs(out, read)
    found = models(runs)
    tests = compare(found)
    replace_text(out / "table.csv", as_csv(runs))
    replace_text(out / "pairs.csv", _pairs_csv(tests))
    replace_text(out / "report.md", "\n".join(_report(runs, found, tests, draw(found, out))) + "\n")


def _report(runs: Sequence[Run], found: Sequence[Model], tests: Sequence[PairTest], plots: Sequence[str]) -> list[str]:
    failed = [run for run in runs if not run.verdicts]
    lines = [f"# Sweep: {len(runs) - len(failed)} points of {len(found)} models", ""]
    if not found:
        return [*lines, "No point is finished.", *_failed(failed)]
    lines += ["## Accuracy", "", *_accuracies(found), "", *_which_intervals(found), ""]
    if names := subsets(found):
        lines += ["## Accuracy by subset", "", "Mean over seeds.", ""]
        lines += _table(
            ["model", *(name or "(no subset)" for name in names)],
            [[model.name, *(f"{np.mean(values):.3f}" if (values := model.accuracies(name)) else "" for name in names)] for model in found],
        )
        lines.append("")
    if len(found) > 1:
        lines += ["## Which differences are real", "", *_differences(found, tests), ""]
    lines += [line for plot in plots for line in (f"![{plot}]({plot})", "")]
    return lines + _failed(failed)


def _accuracies(found: Sequence[Model]) -> list[str]:
    rows = []
    for model in found:
        values = model.accuracies()
        rows.append(
            [
                model.name, str(len(values)), str(len(model.by_example)), f"{np.mean(values):.3f}", _interval(model.interval()),
                f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "", _interval(model.interval_over_examples()),
            ]
        )  # fmt: skip
    return _table(["model", "seeds", "n", "accuracy", "95 %", "sd over seeds", "95 % over examples"], rows)


def _which_intervals(found: Sequence[Model]) -> list[str]:
    lines = ["Accuracy is the mean over seeds; a seed sets the head's first weights and the order of the training examples."]
    several = any(len(model.runs) > 1 for model in found)
    if several:
        lines.append("**95 %**: Student's t over seeds: what other seeds would give on these examples, cut to [0, 1].")
    if any(len(model.runs) == 1 for model in found):
        lines.append(f"**95 %**{' of a model with one seed' if several else ''}: Wilson's interval over examples; one seed has no spread.")
    lines.append(f"**95 % over examples**: bootstrap ({DRAWS} draws) of the mean over seeds: these trained models on other examples.")
    return [f"- {line}" for line in lines]


def _differences(found: Sequence[Model], tests: Sequence[PairTest]) -> list[str]:
    real = [test for test in tests if test.significant]
    if not tests:
        return ["No two models have scores for the same examples, so no pair can be tested."]
    if not real:
        lines = [f"**No difference is significant**: none of the {len(tests)} pairs at the family-wise level {LEVEL:g}."]
    else:
        lines = [f"**{len(real)} of {len(tests)} differences are significant** at the family-wise level {LEVEL:g}:", ""]
        lines += [f"- {test.first} is better than {test.second} by {test.difference.mean:.3f}" for test in real[:SHOWN]]
        if len(real) > SHOWN:
            lines.append(f"- and {len(real) - SHOWN} more, in pairs.csv")
    lines += [
        "",
        "The unit is the example. Bootstrap: examples are resampled, the difference is that of accuracies averaged over seeds. McNemar: "
        "exact, on what the majority of each model's seeds says (an example that splits them evenly is left out). Both are corrected for "
        "all pairs by Holm's method, and a difference is called significant when both corrected p-values are below the level. This speaks "
        "of other examples for these trained models; the last column, Student's t over the seeds that both have (not corrected), speaks "
        "of other seeds.",
        "",
    ]
    rows = [
        [
            test.first, test.second, str(test.n), f"{test.difference.mean:+.3f}", _interval((test.difference.low, test.difference.high)),
            f"{test.bootstrap_holm:.3g}", f"{test.mcnemar.first} : {test.mcnemar.second}", f"{test.mcnemar_holm:.3g}",
            "yes" if test.significant else "no", _interval(test.seeds) if test.seeds else "",
        ]
        for test in tests[:SHOWN]
    ]  # fmt: skip
    head = ["better", "than", "n", "by", "95 % over examples", "bootstrap p", "only one right", "McNemar p", "real", "95 % over seeds"]
    lines += _table(head, rows)
    if len(tests) > SHOWN:
        lines += ["", f"The {SHOWN} smallest p-values; pairs.csv has all {len(tests)}."]
    return lines


def _failed(failed: Sequence[Run]) -> list[str]:
    if not failed:
        return []
    return ["## Failed points", "", *_table(["point", "reason"], [[run.about["name"], run.about["reason"]] for run in failed])]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]


def _interval(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _pairs_csv(tests: Sequence[PairTest]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["first", "second", "n", "difference", "low", "high", "bootstrap_p", "bootstrap_p_holm", "only_first_right", "only_second_right",
         "mcnemar_p", "mcnemar_p_holm", "significant", "seeds_low", "seeds_high"]
    )  # fmt: skip
    for test in tests:
        over_seeds = test.seeds or ("", "")
        writer.writerow(
            [test.first, test.second, test.n, *test.difference, test.bootstrap_holm, *test.mcnemar, test.mcnemar_holm,
             test.significant, *over_seeds]
        )  # fmt: skip
    return text.getvalue()
