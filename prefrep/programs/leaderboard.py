"""Systems ranked from battles, with what the ranking leaves open."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def leaderboard(
    battles: list[str] | None = None,
    *,
    out: str,
    answers: list[str] | None = None,
    model: str | None = None,
    data: str | None = None,
    limit: int | None = None,
    restart: bool = False,
    judge: str | None = None,
    prompt: str | None = None,
    category: str | None = None,
    style: list[str] | None = None,
    ties: Literal["half", "davidson", "rao-kupper"] = "half",
    order: bool = True,
    sharpness: bool = True,
    ridge: float = 0.0,
    weigh: Literal["none", "prompt", "category", "judge"] = "none",
    interval: Literal["sandwich", "bootstrap"] = "sandwich",
    cluster: Literal["auto", "none", "item", "prompt"] = "auto",
    resamples: int = 200,
    scale: Literal["elo", "nats"] = "elo",
    circles: int = 200,
    next: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank systems from battles: ratings, ranks as intervals, judges, and whether one number per system suffices.

    Battles are rows with two systems and a winner: `model_a, model_b, winner` or `left, right, winner`, LMArena's columns, or the files of
    AlpacaEval, Arena-Hard and MT-bench. A file without a column of judges is one judge. A row without a verdict is counted, never a tie; a
    pair that was never compared is unknown. Or a judge is asked: `--model` compares the `--answers` of systems, and its battles are kept in
    `battles.jsonl`; what it said is not asked again. The output has `results.json` and `leaderboard.html`.

    Examples:
        prefrep eval leaderboard votes.csv --out runs/board
        prefrep eval leaderboard crowd.csv gpt4.csv --out runs/board --ties davidson --next 20
        prefrep eval leaderboard --answers A.json --answers B.json --answers C.json --model runs/mine/export --out runs/board

    Args:
        battles: Files or folders: CSV, JSON lines, Parquet, Arrow.
        out: Folder for the results; an interrupted run there is resumed.
        answers: Answers of a system, as PATH or NAME=PATH: an answer file as `eval winrate` reads it, or a run of post-training.
        model: The judge of the answers: exported folder, id on the hub, URL of a server, package.module.function(prompt, a, b), or a judge
            that writes (YAML file or `GenerativeJudge model=NAME ...`).
        data: The questions of FastChat's answers.
        limit: Ask about so many pairs of answers at most, spread evenly over the pairs of systems.
        restart: Discard the verdicts that the output folder holds.
        judge: Column that names who judged; default: `judge`, where it names few, or the file.
        prompt: Column of the prompt; default: `prompt`, `prompt_id`, `question_id`.
        category: Column of the kind of prompt: do categories rank otherwise?
        style: Features to hold equal: `length`, `headings`, `lists`, `bold`, or any NAME with columns NAME_a and NAME_b.
        ties: `half`: a tie is half a win for each; or a model with a probability of ties.
        order: Whether each judge may lean to the first or second answer.
        sharpness: Whether judges may differ in sharpness.
        ridge: Weight of a normal prior on ratings, 1 / variance in nats^2; 0: none, unless a system never lost.
        weigh: What counts equally: each battle (`none`), or each prompt, category or judge.
        interval: How errors are found.
        cluster: What is independent: battles (`none`), pairs of answers (`item`), prompts; `auto`: prompts if there are 50.
        resamples: Of the bootstrap, and of the sets of best systems.
        scale: `elo`: 400 / ln 10 points a nat, mean 1000; or `nats`.
        circles: Draws of transitive judges, against which circles are tested; 0: ratings only.
        next: List so many comparisons worth asking next, in `next.jsonl`.
        seed: Seed of everything that is drawn.

    Returns:
        The content of `results.json`.

    Raises:
        VerdictError: The judge gave too few verdicts; the results are written.
        PrefrepError: A file cannot be read, or options do not fit it.
    """
    from prefrep.data.battles import Columns, joined, read
    from prefrep.disk import replace_lines, replace_text
    from prefrep.errors import UsageError, require_at_least
    from prefrep.evaluation.entrants import Entrant
    from prefrep.evaluation.layout import versions, write_results
    from prefrep.evaluation.leaderboard import asked as questions
    from prefrep.evaluation.leaderboard import circles as circular
    from prefrep.evaluation.leaderboard import groups, rated
    from prefrep.evaluation.leaderboard.printed import leaderboard_lines
    from prefrep.evaluation.leaderboard.settings import Settings
    from prefrep.evaluation.leaderboard.told import reading_notes
    from prefrep.evaluation.verdicts import check
    from prefrep.functional.next_pairs import next_pairs
    from prefrep.judges import comparer
    from prefrep.judges.named import identity_of
    from prefrep.reports import leaderboard as board
    from prefrep.reports import page

    for name, value, least in (
        ("--resamples", resamples, 2), ("--circles", circles, 0), ("--next", next, 0), ("--ridge", ridge, 0),
        ("--limit", 1 if limit is None else limit, 1),
    ):  # fmt: skip
        require_at_least(name, value, least)
    if bool(answers) != bool(model):
        given, missing = ("answers", "model") if answers else ("model", "answers")
        raise UsageError(f"--{given} goes with --{missing}: a judge compares the answers of systems")
    for name, given_alone in (("data", data), ("limit", limit)):
        if given_alone is not None and not answers:
            raise UsageError(f"--{name} goes with --answers; leave it out")
    if not battles and not answers:
        raise UsageError("name files of battles, or --answers of two systems or more and the --model that compares them")
    settings = Settings(ties, order, sharpness, ridge, weigh, interval, cluster, resamples, scale, seed)
    folder, files, features = Path(out), ["leaderboard.html"], tuple(style or ())
    parts = [read(battles, Columns(judge, prompt, category, features))] if battles else []
    about, referee, field = dict[str, Any](), None, list[Entrant]()
    if answers and model:
        field = questions.systems(answers, data)
        pairs, there = questions.pairs(field, limit, seed)
        referee = comparer(model)
        about = identity_of(model, referee)
        file = questions.ask(referee, pairs, about, folder, restart)
        parts.insert(0, read([str(file)], Columns(features=features)))
        files.append(file.name)
        about |= {"asked": len(pairs), "of": there}
    counts = sum((each.counts for each in parts), Counter())
    rating = rated.evaluate(joined([each.battles for each in parts]), settings)
    results = rating.results | {"data": [*(battles or ()), *(answers or ())], "read": {**counts}} | ({"judge": about} if about else {})
    results["formats"] = {file: kind for each in parts for file, kind in each.formats.items()}
    results["notes"] = reading_notes(counts) + results["notes"]
    if about:
        results["notes"] += questions.notes(field, about["asked"], about["of"], rating.battles.systems)
    if circles:
        results["one_number"] = circular.evaluate(rating, circles)
        kinds = (
            ("judges", rating.battles.judge, rating.battles.judges),
            ("categories", rating.battles.category, rating.battles.categories),
        )
        results["groups"] = [each for kind in kinds if len(kind[2]) > 1 and (each := groups.evaluate(rating, *kind, circles)) is not None]
    if next:
        names = rating.battles.systems
        asked = next_pairs(rating.fit.ratings, rating.spread, next)
        replace_lines(folder / "next.jsonl", ({"left": names[i], "right": names[j], "nats": gain} for i, j, gain in asked))
        files.append("next.jsonl")
    results["versions"] = versions()
    replace_text(folder / "leaderboard.html", page.html(board.build(results)))
    path = write_results(folder, results)
    print("\n".join(leaderboard_lines(results)))
    print(f"\nwritten: {path}, {', '.join(files)}")
    if referee is not None:
        check(referee)
    return results
