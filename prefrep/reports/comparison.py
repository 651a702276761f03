"""Runs that were evaluated on the same data, side by side, with tests of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefrep.errors import PrefrepError
from prefrep.evaluation.registry import JUDGED
from prefrep.evaluation.summary import rule_of
from prefrep.reports.document import Block, Section, Text, interval, measured, notes, number, table
from prefrep.reports.found import Evaluation, Run
from prefrep.reports.samples import verdicts
from prefrep.sweeps import table as points

REWARD_MODELS = ("rewardbench", "rewardbench2", *JUDGED)  # benchmarks of reward models: each has an overall and a rule
SHOWN = 20  # pairs of models in a report; a sweep's pairs.csv has all


class Entry(NamedTuple):
    """An evaluation with its name in the comparison.

    Args:
        name: Name of its run, and of the folder if a run has several.
        evaluation: The evaluation.
    """

    name: str
    evaluation: Evaluation


def groups(runs: Sequence[Run]) -> dict[tuple[str, str], list[Entry]]:
    """Return evaluations of several models on the same data, by benchmark and data."""
    found: dict[tuple[str, str], list[tuple[Run, Evaluation]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            if evaluation.data is not None and evaluation.benchmark != "winrate":
                found.setdefault((evaluation.benchmark, evaluation.data), []).append((run, evaluation))
    named: dict[tuple[str, str], list[Entry]] = {}
    for key, members in found.items():
        if len(members) > 1:
            of = [run.name for run, _ in members]
            named[key] = [Entry(run.name if of.count(run.name) == 1 else f"{run.name}/{each.name}", each) for run, each in members]
    return named


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return the overall scores of all benchmarks, a row per benchmark and a column per run; None: there are fewer than two.

    An evaluation on part of a benchmark, or by another rule, is a separate row.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for run in runs:
        for each in run.evaluations:
            if each.benchmark in REWARD_MODELS and "overall" in each.results:
                n = f"{each.results['overall']['n']}{', partial' if each.results.get('partial') else ''}"
                found = rows.setdefault((each.benchmark, n, rule_of(each.results)), {})
                value = " ".join(measured(each.results["overall"])[1:])
                found[run.name] = f"{found[run.name]}; {value}" if run.name in found else value
    if len(rows) < 2:
        return None
    lines = [(benchmark, n, *(values.get(run.name, "-") for run in runs), rule) for (benchmark, n, rule), values in rows.items()]
    return Section("Benchmarks, side by side", (table(("benchmark", "n", *(run.name for run in runs), "rule"), lines),))


def section(runs: Sequence[Run]) -> Section | None:
    """Return the comparison of all evaluations that can be compared; None: there are none."""
    blocks: list[Block] = []
    found = groups(runs)
    titles = [benchmark for benchmark, _ in found]
    for (benchmark, data), entries in found.items():
        title = benchmark if titles.count(benchmark) == 1 else f"{benchmark}, data {data[:8]}"
        try:
            compared = _compared(entries)
        except PrefrepError as error:
            compared = [Text(f"Not compared: {error}", strong=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:  # a file of another version, or edited by hand
            words = f"one of them is not in the format of this version of prefrep eval ({error!r}); run that evaluation again"
            compared = [Text(f"Not compared: {words}", strong=True)]
        blocks.append(Section(title, tuple(compared)))
    if len(runs) < 2 and not blocks:
        return None
    if not blocks:
        words = "No two evaluations are known to use the same data, so no difference between them is tested."
        blocks.append(Text(f"{words} Sweeps are tested within themselves; win rates are not tested."))
    return Section("Comparison", tuple(blocks))


def _compared(entries: Sequence[Entry]) -> list[Block]:
    sides = [points.Model(name, {}, {0: points.Run({}, found)}) for name, each in entries if (found := verdicts(each))]
    by_rule: dict[str, list[Entry]] = {}
    for entry in entries:
        rewardbench = entry.evaluation.benchmark in REWARD_MODELS
        by_rule.setdefault(rule_of(entry.evaluation.results) if rewardbench else "", []).append(entry)
    blocks: list[Block] = []
    if len(by_rule) > 1:
        words = "These overalls follow different rules, so they cannot be compared from one table to the next."
        blocks.append(Text(f"{words} Correct verdicts follow one rule in all of them.", strong=True))
    blocks += [_overall(members, sides, rule) for rule, members in by_rule.items()]
    sides.sort(key=lambda side: (-side.accuracies()[0], side.name))
    if names := points.subsets(sides):
        rows = [(side.name, *(mean(side.accuracies(name)) for name in names)) for side in sides]
        blocks.append(table(("run, by subset", *(name or "(no subset)" for name in names)), rows))
    if len(sides) > 1:
        blocks += differences(points.compare(sides), _more(entries[0].evaluation.benchmark))
    else:
        blocks.append(Text("There are no correct or wrong verdicts per sample, so no difference is tested."))
    return blocks


def _more(benchmark: str) -> list[str]:
    return ["The tests use whether the first answer alone is ranked first; Ties are left out."] if benchmark == "rewardbench2" else []


def _overall(entries: Sequence[Entry], sides: Sequence[points.Model], rule: str) -> Block:
    """Return the table of evaluations whose overall scores follow one rule, which the table names if it has a name."""
    head = ("run", "n", "overall" + (f" ({rule})" if rule else ""), "95 %")
    own_runs = {side.name: next(iter(side.runs.values())) for side in sides}
    rows = []
    for name, each in entries:
        row: tuple[str, ...] = (name, *measured(each.results["overall"]))
        if sides:
            wins, n = own_runs[name].accuracy() if name in own_runs else (0, 0)
            row += (str(n), number(wins / n), interval(own_runs[name].interval())) if n else ("0", "-", "-")
        rows.append(row)
    return table((*head, "samples", "right", "95 % (Wilson)") if sides else head, rows)


def differences(tests: Sequence[points.PairTest], more: Sequence[str] = ()) -> list[Block]:
    """Return the significant differences in words, and all tests as a table.

    Args:
        tests: Paired tests, corrected for their number.
        more: Further remarks.
    """
    if not tests:
        return [Text("No two of them have scores for the same examples, so no pair can be tested.")]
    real = [test for test in tests if test.significant]
    several, level = len(tests) > 1, f"at the level {points.LEVEL:g}"
    if real:
        said = f"{len(real)} of the {len(tests)} differences are significant" if several else "The difference is significant"
        blocks: list[Block] = [Text(f"{said} {level}.", strong=True)]
        blocks += notes([f"{test.first} is better than {test.second} by {test.difference.mean:.3f}" for test in real[:SHOWN]])
    else:
        tested = f"{len(tests)} pairs were" if several else "one pair was"
        blocks = [Text(f"No difference is significant {level}: {tested} tested.", strong=True)]
    with_seeds = any(test.seeds for test in tests)
    rows = [
        (
            test.first, test.second, str(test.n), f"{test.difference.mean:+z.3f}", interval((test.difference.low, test.difference.high)),
            f"{test.bootstrap_holm:.3g}", f"{test.mcnemar.first} : {test.mcnemar.second}", f"{test.mcnemar_holm:.3g}",
            "yes" if test.significant else "no", *((interval(test.seeds),) if with_seeds else ()),
        )
        for test in tests[:SHOWN]
    ]  # fmt: skip
    head = ["better", "than", "n", "by", "95 % over examples", "bootstrap p", "only one correct", "McNemar p", "significant"]
    blocks.append(table([*head, "95 % over seeds"] if with_seeds else head, rows))
    if any(test.prompts < test.n for test in tests):
        more = [
            "Several comparisons on one prompt are not independent: the bootstrap resamples prompts, and in McNemar's test a prompt "
            "counts once, for the model that is correct on more of its comparisons.",
            *more,
        ]
    corrected = f" They are corrected for the {len(tests)} pairs (Holm); intervals are not." if several else ""
    words = (
        "Both tests are paired: they use the examples on which one model is correct and the other is not. A difference is significant if "
        f"both p-values are below {points.LEVEL:g}.{corrected}"
    )
    left = [f"The {SHOWN} smallest p-values of {len(tests)}."] if len(tests) > SHOWN else []
    return [*blocks, *notes([words, *left, *more])]


def mean(values: Sequence[float]) -> str:
    """Return the mean of accuracies as reports show it; a dash if there are none."""
    return number(float(np.mean(values))) if values else "-"
