"""Policies against each other under a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.evaluation.policies import Answering
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def league(
    *,
    policy: list[str],
    judge: str,
    out: str,
    data: str | None = None,
    restart: bool = False,
    bootstrap: int = 1000,
    judge_batch_tokens: int = 4096,
    temperature: float = 1.0,
    top_p: float = 1.0,
    **answering: Any,
) -> dict[str, Any]:
    r"""Policies against each other: win rates, cycles, and the mixture that nobody beats.

    The output has a table of win rates of all policies against all with intervals over prompts, cycles of three policies, the maximal
    lottery, and KL to the initial policy where runs measured it. A policy is a run of post-training (its last held-out answers), one round
    of a run (RUN/rounds/0 is the initial policy), an answer file as `eval winrate` reads it, or a language model that answers --data.

    Examples:
        prefrep eval league --policy start=runs/gpo/rounds/0 --policy gpo=runs/gpo --policy sppo=runs/sppo \
            --judge prefrep.judges.circular --out runs/league

    Args:
        policy: A policy as PATH or NAME=PATH; two or more. Runs with one name, such as seeds, are one policy that answers more often.
        judge: Exported folder, its id on the hub, URL of a server, or package.module.function(prompt, a, b) -> log-odds of a over b.
        out: Folder for the results; an interrupted run there is resumed.
        data: Prompts for language models, or the questions of FastChat's answers.
        restart: Discard the answers and tables that the output folder holds.
        bootstrap: Resamples for the intervals.
        judge_batch_tokens: Tokens that the judge reads at a time.
        temperature: Sampling temperature of generated answers; 0: greedy.
        top_p: Nucleus of the sampling.
        **answering: See `prefrep.evaluation.policies.Answering`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; answers, prompts, models or the judge cannot be read.
    """
    from prefrep.disk import replace_json
    from prefrep.errors import UsageError
    from prefrep.evaluation import entrants
    from prefrep.evaluation import league as evaluation
    from prefrep.evaluation.answers import alpaca
    from prefrep.evaluation.layout import RESULTS, versions
    from prefrep.evaluation.printed import league_lines
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.judges import comparer
    from prefrep.judges.named import identity_of

    named = entrants.parse(policy)
    how, folder = Answering(**answering), Path(out)
    draws = Bootstrap(bootstrap, how.seed)
    referee = comparer(judge, how.device, judge_batch_tokens, how.trust_remote_code)
    described = identity_of(judge, referee)
    if described.get("abstains"):  # also behind a server
        raise UsageError(f"--judge {judge}: a judge that writes may give no verdict, and a league needs all; see eval winrate")
    generated = 0

    def generate(path: str, name: str) -> Path:
        # Two models with one seed would share their luck: the same model against itself should not tie on every prompt.
        nonlocal generated
        generated += 1
        into = folder / f"answers-{name}"
        return alpaca(
            how, path, str(data), into, temperature, top_p, name=name, seed=how.seed + generated - 1, distinct=True, restart=restart
        )[0]

    field = [entrants.enter(name, paths, data, generate) for name, paths in named.items()]
    prompts, notes = evaluation.shared(field)
    rows = evaluation.judge(referee, field, prompts, folder, described, restart)
    found = evaluation.results(rows, field, draws)
    found["notes"] += notes
    found = {"benchmark": "league", "judge": described} | found | {"versions": versions()}
    replace_json(folder / RESULTS, found)
    print("\n".join(league_lines(found)))
    print(f"\nwritten: {folder / RESULTS}, tables.jsonl")
    return found
