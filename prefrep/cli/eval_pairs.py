"""`bin/eval pairs`: accuracy, agreement and calibration on any file of comparisons."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.cli.options import add_bootstrap, add_loading, add_workers
from prefrep.scoring import workers

if TYPE_CHECKING:
    from prefrep.records import Comparison
    from prefrep.scoring import Scorer


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "pairs",
        help="any comparisons: accuracy, agreement by length and margin, calibration",
        description="Accuracy on any file of comparisons, by subset, length and margin, and how far the model's probabilities can be "
        "trusted: Brier score, log loss, calibration error and a reliability diagram. Of K scored responses all pairs count.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="exported folder of a model")
    parser.add_argument("--data", required=True, metavar="FILE|HUB", help="comparisons: file, folder or hub data set")
    parser.add_argument("--calibrate-on", metavar="FILE|HUB", help="other comparisons, which one temperature is fitted on")
    parser.add_argument("--format", default="auto", help="format of the rows; auto detects it from the columns (default: auto)")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="where results go; an interrupted run is carried on")
    parser.add_argument("--restart", action="store_true", help="throw away the scores that --out holds")
    add_bootstrap(parser)
    model = add_loading(parser)
    add_workers(model)
    parser.set_defaults(run=_pairs, parser=parser)


def _pairs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from prefrep.disk import replace_lines
    from prefrep.evaluation import pairs
    from prefrep.evaluation.layout import fingerprint, model_name, versions, write_results
    from prefrep.evaluation.reliability import PLOT, reliability_plot
    from prefrep.evaluation.scores import encoding_notes
    from prefrep.evaluation.summary import Bootstrap

    bootstrap = Bootstrap(given.bootstrap, given.seed)
    # Data first and the model last: a wrong path should not cost the loading of a model.
    data = _read(given.data, given.format)
    held_out = _read(given.calibrate_on, given.format) if given.calibrate_on else None
    notes = [] if held_out is None else _apart(given, held_out, data)
    scorer = workers.start(workers.Loading(given.model, given.device, given.dtype, batch_tokens=given.batch_tokens), given.workers)
    model = {"path": str(given.model), "fingerprint": fingerprint(given.model), **scorer.describe()}
    rows, described = _score(scorer, data, given.out, model, given.restart)
    others = None if held_out is None else _score(scorer, held_out, given.out / "calibration", model, given.restart)[0]
    results = pairs.evaluate(rows, others, bootstrap)
    results["notes"] += notes + encoding_notes(described, len(rows))
    results |= {
        "data": given.data,
        "calibrate_on": given.calibrate_on,
        "model": {"name": model_name(given.model), **{key: value for key, value in described.items() if key != "versions"}},
        "versions": versions(described["versions"]),
    }
    replace_lines(given.out / pairs.MISTAKES, pairs.mistakes(rows, data))
    reliability_plot(results, given.out / PLOT)
    path = write_results(given.out, results)
    print("\n".join(report(results)))
    print(f"\nwritten: {path}, scores.jsonl, {pairs.MISTAKES}, {PLOT}")
    return 0


def _read(path: str, format: str) -> list[Comparison]:
    from prefrep.data.sources import Source, read
    from prefrep.evaluation.pairs import comparisons_of

    return comparisons_of(read(Source(path, format)))


def _apart(given: argparse.Namespace, held_out: list[Comparison], data: list[Comparison]) -> list[str]:
    """Refuses a temperature that would be fitted on what it is measured on; says so where the two overlap.

    Raises:
        ConfigError: All held-out comparisons are in the data.
    """
    from prefrep.errors import ConfigError
    from prefrep.evaluation.pairs import shared

    both = shared(held_out, data)
    if both == len(held_out):
        raise ConfigError(
            f"--calibrate-on {given.calibrate_on}: all of its comparisons are in --data too, and a temperature fitted on what it is "
            "measured on shows nothing; name other comparisons"
        )
    return [f"{both} of the {len(held_out)} comparisons that the temperature was fitted on are evaluated too"] if both else []


def _score(
    scorer: Scorer | workers.Workers, comparisons: list[Comparison], out: Path, model: dict[str, Any], restart: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Rows, and the model's description with what was counted while encoding these comparisons."""
    from prefrep.evaluation.pairs import PairRow
    from prefrep.evaluation.scores import add_counts, log_pairs

    before = dict(scorer.describe()["encoded"])
    rows = log_pairs(scorer, comparisons, out, PairRow, "pairs", model, restart)
    described = scorer.describe()
    counted = {what: n - before.get(what, 0) for what, n in described["encoded"].items()}
    return rows, add_counts(out, {**model, **described, "encoded": counted})


def report(results: dict[str, Any]) -> list[str]:
    """The results as lines of a table, with what a reader must know below it."""
    measured, length, margin = results["calibration"], results["agreement"]["length"], results["agreement"]["margin"]
    lines = [f"{'':<40}{'n':>7}  {'score':>7}  95 % interval"]

    def add(label: str, value: dict[str, Any]) -> None:
        low, high = value["ci95"]
        if value["n"]:
            lines.append(f"{label:<40}{value['n']:>7}  {value['score']:>7.3f}  [{low:.3f}, {high:.3f}]")

    add("accuracy", results["overall"])
    if len(results["subsets"]) > 1:
        for name, value in results["subsets"].items():
            add(f"  {name or '(no subset)'}", value)
    for key in ("preferred_longer", "same_length", "preferred_shorter"):
        add(f"  {key.replace('_', ' ')}", length[key])
    for group in [] if margin is None else margin["bins"]:
        add(f"  margin {group['low']:.3g} to {group['high']:.3g}", group)
    add("model chooses the longer answer", length["model_chooses_longer"])
    add("data choose the longer answer", length["data_choose_longer"])
    found = [("", measured)]
    fitted = measured["temperature"]
    if fitted is not None:
        found.append((f", temperature {fitted['value']:.3g}", fitted["after"]))
    for suffix, each in found:
        for name, key in (("Brier score", "brier"), ("log loss (nats)", "log_loss")):
            add(name + suffix, each[key])
        error, chance = each["ece"], each["ece"]["if_calibrated"]
        by_chance = f"by chance, if calibrated: {chance['mean']:.3f}, 95 % below {chance['p95']:.3f}"
        lines.append(f"{'calibration error (ECE)' + suffix:<40}{error['n']:>7}  {error['score']:>7.3f}  {by_chance}")
    return lines + ["", f"model: {results['model']['name']}"] + [f"note: {note}" for note in results["notes"]]
