"""Systems ranked from battles, with what the ranking leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def leaderboard(
    battles: list[str],
    *,
    out: str,
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
    pair that was never compared is unknown. The output has `results.json` and `leaderboard.html`.

    Examples:
        prefrep eval leaderboard votes.csv --out runs/board
        prefrep eval leaderboard crowd.csv gpt4.csv --out runs/board --ties davidson --next 20

    Args:
        battles: Files or folders: CSV, JSON lines, Parquet, Arrow.
        out: Folder for the results.
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
        PrefrepError: A file cannot be read, or options do not fit it.
    """
    from prefrep.data.battles import Columns, read
    from prefrep.disk import replace_lines, replace_text
    from prefrep.errors import require_at_least
    from prefrep.evaluation.layout import versions, write_results
    from prefrep.evaluation.leaderboard import circles as circular
    from prefrep.evaluation.leaderboard import groups, rated
    from prefrep.evaluation.leaderboard.printed import leaderboard_lines
    from prefrep.evaluation.leaderboard.settings import Settings
    from prefrep.evaluation.leaderboard.told import reading_notes
    from prefrep.functional.next_pairs import next_pairs
    from prefrep.reports import leaderboard as board
    from prefrep.reports import page

    for name, value, least in (("--resamples", resamples, 2), ("--circles", circles, 0), ("--next", next, 0), ("--ridge", ridge, 0)):
        require_at_least(name, value, least)
    found = read(battles, Columns(judge, prompt, category, tuple(style or ())))
    settings = Settings(ties, order, sharpness, ridge, weigh, interval, cluster, resamples, scale, seed)
    rating = rated.evaluate(found.battles, settings)
    results = rating.results | {"data": battles, "read": {**found.counts}, "formats": found.formats}
    results["notes"] = reading_notes(found.counts) + results["notes"]
    if circles:
        results["one_number"] = circular.evaluate(rating, circles)
        kinds = (
            ("judges", rating.battles.judge, rating.battles.judges),
            ("categories", rating.battles.category, rating.battles.categories),
        )
        results["groups"] = [each for kind in kinds if len(kind[2]) > 1 and (each := groups.evaluate(rating, *kind, circles)) is not None]
    folder, files = Path(out), ["leaderboard.html"]
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
    return results
