"""Two policies or two answer files under a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.evaluation.policies import Answering
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def winrate(
    *,
    model: str,
    against: str,
    judge: str,
    out: str,
    data: str | None = None,
    restart: bool = False,
    bootstrap: int = 1000,
    judge_batch_tokens: int = 4096,
    judge_as: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.9,
    **answering: Any,
) -> dict[str, Any]:
    r"""Two policies or two answer files, compared by a preference model.

    The output has the win rate of A (--model) against B (--against), raw and length-controlled, each with an interval. The latter is what
    AlpacaEval calls length_controlled_minimal, not the number of its leaderboard. Answers come from files (AlpacaEval's model_outputs.json,
    FastChat's answers), or are generated for the prompts of --data.

    Examples:
        prefrep eval winrate --model A.json --against B.json --judge runs/mine/export --out runs/winrate
        prefrep eval winrate --model runs/policy/export --against bundled:smollm2-135m --data prompts.txt \
            --judge runs/mine/export --out runs/winrate

    Args:
        model: Answer file of A, or a language model.
        against: Answer file of B, or a language model.
        judge: Preference model, its id on the hub, URL of a server, package.module.function(prompt, a, b) -> log-odds of a over b, or a
            judge that writes (YAML file or `GenerativeJudge model=NAME ...`).
        out: Folder for the results; an interrupted run there is resumed.
        data: Prompts for language models, or the questions of FastChat's answers.
        restart: Discard the answers and scores that the output folder holds.
        bootstrap: Resamples for the intervals.
        judge_batch_tokens: Tokens that the judge reads at a time.
        judge_as: What a judge of another program is, if its files do not say: pairrm, steamshp, ...
        temperature: Sampling temperature of generated answers; 0: greedy.
        top_p: Nucleus of the sampling.
        **answering: See `prefrep.evaluation.policies.Answering`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; answers, prompts, models or the judge cannot be read.
    """
    from prefrep.disk import replace_json, replace_lines
    from prefrep.errors import UsageError
    from prefrep.evaluation import winrate as evaluation
    from prefrep.evaluation.answers import alpaca
    from prefrep.evaluation.layout import RESULTS, versions
    from prefrep.evaluation.printed import winrate_lines
    from prefrep.evaluation.rows import PairScore
    from prefrep.evaluation.scores import log_pairs
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.evaluation.verdicts import check, keep_verdicts
    from prefrep.judges import comparer
    from prefrep.judges.named import identity_of

    sides = {"a": model, "b": against}
    files = {side for side, path in sides.items() if evaluation.is_answer_file(path)}
    if data is None and len(files) < len(sides):
        raise UsageError("--data must name the prompts when a language model is to answer them")
    how, folder = Answering(**answering), Path(out)
    draws = Bootstrap(bootstrap, how.seed)
    # Files first and models last: a wrong path should not cost a generation.
    referee = comparer(judge, how.device, judge_batch_tokens, how.trust_remote_code, judge_as)
    described = identity_of(judge, referee)
    answers = {side: evaluation.read_side(sides[side], data) for side in sorted(files)}
    # Two models with one seed would share their luck: the same model against itself should not tie on every prompt.
    for number, side in enumerate(sides):
        if side not in files:
            file, _ = alpaca(
                how, sides[side], str(data), folder / f"answers-{side}", temperature, top_p, seed=how.seed + number, distinct=True,
                restart=restart, alike=side == "b",
            )  # fmt: skip
            answers[side] = evaluation.read_answers(str(file))
    pairs, notes = evaluation.paired(answers["a"], answers["b"])
    rows = log_pairs(referee, pairs, folder, PairScore, "winrate", described, restart)
    scores = [row.score for row in rows]
    keep_verdicts(referee, pairs, folder)
    found = evaluation.results(scores, pairs, draws)
    found["notes"] = notes + found["notes"]
    found = {"benchmark": "winrate", "a": answers["a"].name, "b": answers["b"].name, "judge": described} | found | {"versions": versions()}
    replace_lines(folder / "samples.jsonl", evaluation.sample_rows(scores, pairs))
    replace_json(folder / RESULTS, found)
    print("\n".join(winrate_lines(found)))
    print(f"\nwritten: {folder / RESULTS}, samples.jsonl")
    check(referee)
    return found
