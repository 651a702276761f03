"""Evaluates preference models and policies on benchmarks: one sub-command each."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefrep.cli import eval_generate, eval_intransitivity, eval_pairs, eval_winrate
from prefrep.cli.options import add_bootstrap, add_loading, add_workers
from prefrep.scoring import workers

if TYPE_CHECKING:
    from prefrep.evaluation.rewardbench import PreferenceScorer
    from prefrep.evaluation.summary import Bootstrap, Scalarisation
    from prefrep.records import Record

Command = Callable[[argparse.ArgumentParser, argparse.Namespace], int]

HUB = {"rewardbench": "allenai/reward-bench:filtered", "rewardbench2": "allenai/reward-bench-2:test"}


def main(args: list[str] | None = None) -> int:
    """Runs a sub-command.

    Args:
        args: Command line arguments, those of the process by default.

    Returns:
        The exit code.

    Raises:
        PrefrepError: If the model, the data or saved scores cannot be used.
    """
    parser = argparse.ArgumentParser(prog="bin/eval", description=__doc__, epilog="bin/eval SUB-COMMAND --help shows its options.")
    commands = parser.add_subparsers(required=True, metavar="SUB-COMMAND")
    _add_rewardbench(commands)
    _add_rewardbench2(commands)
    eval_generate.add(commands)
    eval_winrate.add(commands)
    eval_intransitivity.add(commands)
    eval_pairs.add(commands)
    given = parser.parse_args(args)
    from prefrep.cli.main import quiet

    quiet()
    return cast(Command, given.run)(given.parser, given)


# ------------------------------------------------------------------------------------------------------------------ rewardbench
def _add_rewardbench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "rewardbench",
        help="RewardBench: does the chosen answer win? 23 subsets, 4 sections",
        description="RewardBench: a pair counts when chosen scores strictly higher; subsets, weighted sections, their mean.",
    )
    _add_shared(parser, "rewardbench")
    parser.add_argument(
        "--weights",
        choices=["current", "0.1.2"],
        default="current",
        help="weights of the sections; 0.1.2: with the swapped XSTest weights, as the GPM repository reports (default: current)",
    )
    parser.set_defaults(run=_rewardbench, parser=parser)


def _add_rewardbench2(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "rewardbench2",
        help="RewardBench 2: best of 4 answers, and prompts with several correct ones",
        description="RewardBench 2: best of 4, the Ties subset, the mean of six. "
        "Models that compare answers are not covered by the official rules; the output names the scalarisation used.",
    )
    _add_shared(parser, "rewardbench2")
    parser.add_argument("--ties", choices=["main", "0.1.4"], default="main", help="which version scores the Ties subset (default: main)")
    parser.add_argument(
        "--scalarisation",
        choices=["rewards", "round-robin", "mean-logit", "wins", "beat-all"],
        help="one score per answer (default: rewards, the official rule, for Bradley-Terry models, round-robin for the others)",
    )
    parser.set_defaults(run=_rewardbench2, parser=parser)


def _add_shared(parser: argparse.ArgumentParser, benchmark: str) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR", help="exported folder of a model")
    what.add_argument("--scores", metavar="FILE", help="scores.jsonl of an earlier evaluation, scored again without a model")
    parser.add_argument("--data", metavar="FILE|HUB", help=f"file, folder or hub data set (default: {HUB[benchmark]})")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where results go; an interrupted run there is carried on")
    parser.add_argument("--restart", action="store_true", help="throw away the scores that --out holds")
    parser.add_argument("--name", help="the model's name in the official files (default: the last two parts of its path)")
    parser.add_argument("--also-swap", action="store_true", help="also compare with chosen and rejected swapped")
    add_bootstrap(parser)
    model = add_loading(parser)
    model.add_argument("--attention", default="auto", help="attention kernel (default: auto)")
    model.add_argument("--layout", choices=["auto", "trees", "padded"], default="auto", help="of the batches (default: auto)")
    add_workers(model)


def _rewardbench(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from prefrep.evaluation.rewardbench import score_pairs
    from prefrep.evaluation.scores import PairScore, read_scores
    from prefrep.evaluation.summary import pair_results

    bootstrap = _bootstrap(parser, given)
    records: list[Record] = []
    swap = None
    if given.scores:
        rows, model = read_scores(given.scores, PairScore), _saved(given, "rewardbench").get("model", {})
    else:
        scorer, model, records = _loaded(given, "rewardbench")
        rows = score_pairs(scorer, records, given.out, model, given.restart)
        model, swap = _after(scorer, model, records, given)
    results = pair_results(rows, given.weights, bootstrap)
    _finish(given, results, rows, records, model, swap)
    return 0


def _rewardbench2(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from prefrep.errors import ConfigError
    from prefrep.evaluation.rewardbench import score_ranked
    from prefrep.evaluation.scores import RankedScore, read_scores
    from prefrep.evaluation.summary import ranked_results

    bootstrap = _bootstrap(parser, given)
    records: list[Record] = []
    swap = None
    rule: Scalarisation
    if given.scores:
        rows = read_scores(given.scores, RankedScore)
        saved = _saved(given, "rewardbench2")
        model, stated = saved.get("model", {}), saved.get("scalarisation")
        rule = given.scalarisation or stated or "rewards"
        if stated and rule != stated:
            raise ConfigError(f"{given.scores}: its scores were made by '{stated}'; another --scalarisation needs the model")
    else:
        scorer, model, records = _loaded(given, "rewardbench2")
        rule = given.scalarisation or ("round-robin" if scorer.pairwise else "rewards")
        rows = score_ranked(scorer, records, given.out, model, rule, given.restart)
        model, swap = _after(scorer, model, records, given)
    results = ranked_results(rows, given.ties, rule, bootstrap)
    _finish(given, results, rows, records, model, swap)
    return 0


# ----------------------------------------------------------------------------------------------------------------------- shared
def _bootstrap(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Bootstrap:
    """How intervals are drawn, after checking what belongs together: nothing is loaded yet."""
    from prefrep.evaluation.summary import Bootstrap

    if given.scores:
        for name in ("data", "also_swap", "restart"):
            if getattr(given, name):
                parser.error(f"--{name.replace('_', '-')} needs --model; --scores only reads saved scores")
    return Bootstrap(given.bootstrap, given.seed)


def _saved(given: argparse.Namespace, benchmark: str) -> dict[str, Any]:
    """What stands beside saved scores about the model that gave them; nothing, for scores from elsewhere."""
    from prefrep.errors import ConfigError
    from prefrep.evaluation.scores import described

    folder = Path(given.scores).resolve().parent
    if given.out.resolve() == folder:
        raise ConfigError(f"--out {given.out}: holds the scores themselves, and its results know the data; choose another folder")
    if (other := described(given.out).get("benchmark", benchmark)) != benchmark:
        raise ConfigError(f"--out {given.out}: holds an evaluation of another kind ({other}); choose another folder")
    found = described(folder)
    if found.get("benchmark", benchmark) != benchmark:
        raise ConfigError(f"{given.scores}: scores of {found.get('benchmark')}; use `bin/eval {found.get('benchmark')}`")
    return found


def _loaded(given: argparse.Namespace, benchmark: str) -> tuple[PreferenceScorer, dict[str, Any], list[Record]]:
    """The model, what tells it from others, and the data (read first: a wrong path should not cost the loading of a model)."""
    from prefrep.data.sources import Source, read

    records = list(read(Source(given.data or HUB[benchmark], format=benchmark)))

    from prefrep.evaluation.layout import fingerprint

    scorer = workers.start(
        workers.Loading(given.model, given.device, given.dtype, given.attention, given.batch_tokens, given.layout), given.workers
    )
    return scorer, {"path": str(given.model), "fingerprint": fingerprint(given.model), **scorer.describe()}, records


def _after(
    scorer: PreferenceScorer, model: Mapping[str, Any], records: list[Record], given: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The model's description once it has read everything (it counts what was truncated), and consistency under swapping."""
    from prefrep.evaluation.rewardbench import swap_consistency
    from prefrep.evaluation.scores import add_counts

    described = add_counts(given.out, {**model, **scorer.describe()})  # before swapping, which encodes everything again
    return described, swap_consistency(scorer, records) if given.also_swap else None


def _finish(
    given: argparse.Namespace,
    results: dict[str, Any],
    rows: list[Any],
    records: list[Record],
    model: Mapping[str, Any],
    swap: dict[str, Any] | None,
) -> None:
    from prefrep.evaluation.layout import model_name, versions, write_official, write_results
    from prefrep.evaluation.scores import encoding_notes

    name = given.name or model_name(model.get("path") or Path(given.scores).resolve().parent)
    model_type = "Custom Classifier" if model.get("pairwise", True) else "Seq. Classifier"
    source = {"data": given.data or HUB[results["benchmark"]]} if given.model else {"scores": str(given.scores)}
    described = {key: value for key, value in model.items() if key != "versions"}
    results |= source | {"model": {"name": name, **described}, "versions": versions(model.get("versions"))}
    if swap is not None:
        results["swap"] = swap
    results["notes"] += encoding_notes(model, len(rows)) if model else ["the model that gave these scores is not known"]
    given.out.mkdir(parents=True, exist_ok=True)
    official = write_official(given.out, results, rows, records, {"model": name, "model_type": model_type})
    path = write_results(given.out, results)
    print("\n".join(report(results)))
    print(f"\nwritten: {path}, {', '.join(str(each.relative_to(given.out)) for each in official)}")


def report(results: Mapping[str, Any]) -> list[str]:
    """The results as lines of a table, with what a reader must know below it."""
    from prefrep.evaluation.summary import rule_of
    from prefrep.metrics.rewardbench import section_weights

    subsets: dict[str, Any] = dict(results["subsets"])
    groups: list[tuple[str, list[str]]] = []
    if results["benchmark"] == "rewardbench":
        groups = [(section, list(table)) for section, table in section_weights(subsets, results["weights"]).items()]
    inside = {subset for _, members in groups for subset in members}
    lines = [f"{'':<28}{'n':>6}  {'score':>6}  95 % interval"]

    def line(label: str, value: Mapping[str, Any]) -> str:
        low, high = value["ci95"]
        return f"{label:<28}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]"

    for section, members in groups:
        lines += [line(section, results["sections"][section]), *(line(f"  {subset}", subsets[subset]) for subset in members)]
    lines += [line(subset or "(no subset)", value) for subset, value in subsets.items() if subset not in inside]
    lines.append(line("overall", results["overall"]))
    if "accuracy" in results:
        lines.append(line("all rows alike", results["accuracy"]))
    lines += ["", f"{results['benchmark']}, {rule_of(results)}, model: {results['model']['name']}"]
    if "swap" in results:
        swap = results["swap"]
        lines.append(f"swapping: {swap['consistent']:.1%} of {swap['n']} verdicts flip as they should ({swap['orders']})")
    return lines + [textwrap.fill(f"note: {note}", 120, subsequent_indent="      ", break_on_hyphens=False) for note in results["notes"]]


if __name__ == "__main__":
    from prefrep.cli.friendly import run

    run(main)
