"""`bin/eval winrate`: two models or two answer files, compared by a judge."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.cli.eval_generate import add_generation, check, load_policy, make_sampler, model_name

if TYPE_CHECKING:
    from prefrep.evaluation.winrate import Answers
    from prefrep.judges import Comparer

_FILES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "winrate",
        help="two policies or two answer files, compared by a preference model",
        description="Win rate of A against B under a judge, raw and length-controlled, each with an interval. Answers come from files "
        "(model_outputs.json, FastChat's answers), or are generated: then --data names the prompts.",
    )
    parser.add_argument("--model", required=True, metavar="A", help="answer file, or a language model")
    parser.add_argument("--against", required=True, metavar="B", help="answer file, or a language model")
    parser.add_argument(
        "--judge", required=True, metavar="M", help="exported folder, or package.module.function(prompt, a, b) -> log-odds of a over b"
    )
    parser.add_argument("--data", metavar="FILE|HUB", help="prompts for language models; the questions of FastChat's answers")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="where results go; an interrupted run is carried on")
    parser.add_argument("--restart", action="store_true", help="throw away the answers and scores that --out holds")
    parser.add_argument("--bootstrap", metavar="N", type=int, default=1000, help="resamples for the intervals (default: 1000)")
    parser.add_argument("--judge-batch-tokens", type=int, default=4096, help="tokens that the judge reads at a time (default: 4096)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of generated answers; 0: the likeliest (default: 0.7)")
    parser.add_argument("--top-p", type=float, default=0.9, help="nucleus of generated answers (default: 0.9)")
    add_generation(parser)
    parser.set_defaults(run=_winrate, parser=parser)


def _winrate(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    check(parser, given)
    files = [path.endswith(_FILES) for path in (given.model, given.against)]
    if not all(files) and not given.data:
        parser.error("--data must name the prompts when a language model is to answer them")
    from prefrep.cli.main import quiet
    from prefrep.disk import replace_lines
    from prefrep.evaluation import winrate
    from prefrep.evaluation.layout import RESULTS, versions
    from prefrep.evaluation.scores import PairScore, log_pairs, write_json
    from prefrep.evaluation.summary import Bootstrap

    bootstrap = Bootstrap(given.bootstrap, given.seed)
    quiet()
    # Files first and models last: a wrong path should not cost a generation.
    judged = _judge(given)
    sides = {side: path for side, path in (("a", given.model), ("b", given.against))}
    read = {side: _read(given, path) for (side, path), file in zip(sides.items(), files, strict=True) if file}
    answers = {side: read[side] if side in read else _generated(given, side, path) for side, path in sides.items()}
    pairs, notes = winrate.paired(answers["a"], answers["b"])
    judge, described = judged
    rows = log_pairs(judge, pairs, given.out, PairScore, "winrate", described, given.restart)
    scores = [row.score for row in rows]
    found = winrate.results(scores, pairs, bootstrap)
    found["notes"] = notes + found["notes"]
    found = {"benchmark": "winrate", "a": answers["a"].name, "b": answers["b"].name, "judge": described} | found | {"versions": versions()}
    replace_lines(given.out / "samples.jsonl", winrate.sample_rows(scores, pairs))
    write_json(given.out / RESULTS, found)
    print("\n".join(report(found)))
    print(f"\nwritten: {given.out / RESULTS}, samples.jsonl")
    return 0


def _judge(given: argparse.Namespace) -> tuple[Comparer, dict[str, Any]]:
    """Return the judge and the settings that affect its scores."""
    from prefrep.evaluation.layout import fingerprint
    from prefrep.judges import comparer

    judge = comparer(given.judge, given.device, given.judge_batch_tokens)
    folder = {"fingerprint": fingerprint(given.judge)} if Path(given.judge).is_dir() else {}
    return judge, {"path": given.judge, **folder, **judge.describe()}


def _read(given: argparse.Namespace, path: str) -> Answers:
    from prefrep.evaluation.generation import read_questions
    from prefrep.evaluation.winrate import read_answers

    talks = given.data and _holds_talks(path)
    return read_answers(path, read_questions(given.data) if talks else None)


def _holds_talks(path: str) -> bool:
    """Whether a file holds FastChat's answers."""
    from prefrep.data.sources import rows

    first, _ = next(rows(path))
    return "choices" in first


def _generated(given: argparse.Namespace, side: str, path: str) -> Answers:
    """Answers of a language model, kept in the output folder as AlpacaEval's file."""
    from prefrep.evaluation.generation import alpaca_eval, read_instructions
    from prefrep.evaluation.winrate import read_answers

    sampler = make_sampler(given, given.temperature, given.top_p)
    instructions = list({row["instruction"]: row for row in read_instructions(given.data)}.values())
    backbone, model = load_policy(path, given)
    identity = {"model": model} | {name: getattr(given, name) for name in ("temperature", "top_p", "max_new_tokens", "template", "engine")}
    # Two models with one seed would share their luck: the same model against itself should not tie on every prompt.
    seed = given.seed if side == "a" else given.seed + 1
    file = alpaca_eval(
        backbone,
        sampler,
        instructions,
        given.out / f"answers-{side}",
        model_name(path),
        identity,
        batch=given.batch_size,
        seed=seed,
        restart=given.restart,
    )
    return read_answers(str(file))


def report(results: dict[str, Any]) -> list[str]:
    """The results as lines of a table."""
    lines = [
        f"{results['a']} against {results['b']}, judged by {results['judge']['path']}",
        f"{'':<28}{'n':>6}  {'score':>6}  95 % interval",
    ]
    for label, key in (("win rate", "win_rate"), ("strict wins", "strict_wins"), ("length-controlled", "length_controlled")):
        value = results[key]
        low, high = value["ci95"]
        lines.append(f"{label:<28}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]")
    length = results["mean_length"]
    lines.append(f"{results['wins']} wins, {results['ties']} ties, {results['losses']} losses; ")
    lines[-1] += f"mean length {length['a']:.0f} and {length['b']:.0f} characters"
    return lines + [f"note: {note}" for note in results["notes"]]
