"""Numbers that others published, or that other libraries give, on real votes: does `prefrep eval leaderboard` give them too?

    python -m benchmarks.leaderboard_parity FOLDER

FOLDER holds the votes on LLMFAO's answers (CC BY 4.0: llmfao-crowd.csv.gz, llmfao-gpt4.csv.gz), o1-mini's verdicts on JudgeBench
(judgebench-o1-mini.jsonl) and golden.json. evalica is compared where it is installed. Exit code 1: a number differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prefrep.battles import Battles
from prefrep.data.battles import read
from prefrep.evaluation.leaderboard import circles, rated
from prefrep.evaluation.leaderboard.settings import ELO, MEAN, Settings
from prefrep.functional import ratings
from prefrep.functional.battle_votes import Votes, grouped
from prefrep.functional.groups import probabilities

Line = tuple[str, float, float, float]  # what, ours, theirs, tolerance


def fitted(battles: Battles, **options: Any) -> tuple[ratings.Fit, Votes]:
    """Return a fit and its votes."""
    votes, _ = rated.votes_of(battles, Settings(cluster="none"))
    rows, _ = grouped(votes)
    return ratings.fit(rows, ratings.Model(len(battles.systems), len(battles.judges), **options)), rows


def arena_rank(name: str, battles: Battles, golden: dict[str, list[float]]) -> Iterator[Line]:
    """Compare with arena-rank 0.1.1, which adds 1e-5 times the number of battles to the Hessian of its sandwich."""
    fit, rows = fitted(battles, order=False)
    theirs = np.array([golden[system] for system in battles.systems])
    yield (
        f"arena-rank, {name}: largest difference of a rating, points",
        float(np.abs(fit.ratings * ELO + MEAN - theirs[:, 0]).max()),
        0,
        0.031,
    )
    score = probabilities(ratings.log_odds(fit.model, fit.theta, rows)) - rows.outcome
    zero = np.zeros(len(score))
    size = len(battles.systems)
    middle = ratings.quadratic(rows, fit.model, fit.theta, rows.squared * score**2, zero, zero)[:size, :size]
    inverse = np.linalg.inv(fit.hessian[:size, :size] + 1e-5 * len(battles) * np.eye(size))
    width = 1.959964 * ELO * np.sqrt(np.diag(inverse @ middle @ inverse))
    half = (theirs[:, 2] - theirs[:, 1]) / 2
    yield f"arena-rank, {name}: largest difference of a half-width, points", float(np.abs(width - half).max()), 0, 0.012
    # Its ratings are not at the optimum: the score of the likelihood there is not 0.
    there = np.r_[(theirs[:, 0] - MEAN) / ELO, fit.theta[size:]]
    gap = probabilities(ratings.log_odds(fit.model, there, rows)) - rows.outcome
    slope = np.bincount(rows.left, rows.weight * gap, size) - np.bincount(rows.right, rows.weight * gap, size)
    length = float(np.linalg.norm(slope))
    yield f"  length of the score at arena-rank's ratings, {name} (ours: below 1e-6)", length, 0, 0.01
    # Golden ratings are rounded to 1e-4 points; that moves the score by no more than this.
    rounding = float(np.linalg.norm(fit.hessian[:size, :size], 2) * np.sqrt(size) * 0.5e-4 / ELO)
    yield "    share of it that rounding of the golden numbers can explain, at most", rounding / length, 0, 0.5


def evalica(battles: Battles, golden: dict[str, dict[str, float]]) -> Iterator[Line]:
    """Compare the reader through evalica's seven algorithms, and our ratings with its Bradley-Terry scores."""
    fit, _ = fitted(battles, order=False)
    theirs = np.log([golden["bradley_terry"][system] for system in battles.systems])
    yield "evalica, Bradley-Terry: largest difference, nats", float(np.abs(fit.ratings - theirs + theirs.mean()).max()), 0, 1e-6
    try:
        import evalica as library
    except ImportError:
        return
    kinds = {1.0: library.Winner.X, 0.0: library.Winner.Y, 0.5: library.Winner.Draw}
    sides = [[battles.systems[code] for code in column] for column in (battles.left, battles.right)]
    winners = [kinds[float(outcome)] for outcome in battles.outcome]
    for name, scores in golden.items():
        found = getattr(library, name)(*sides, winners).scores
        # Scores of Bradley and Terry have no scale of their own.
        scale = sum(scores.values()) / float(found.sum()) if name == "bradley_terry" else 1.0
        gap = max(abs(scale * float(found[system]) - value) / max(abs(value), 1) for system, value in scores.items())
        yield f"evalica, {name}, of our columns: largest relative difference", gap, 0, 1e-6


def judge_aware(crowd: Battles, gpt4: Battles, both: Battles, golden: dict[str, Any]) -> Iterator[Line]:
    """Compare order effects, sharpness and likelihood ratios."""
    for name, battles in (("crowd", crowd), ("gpt4", gpt4)):
        half, dropped = golden["order_effect_ties_half"][name], golden["order_effect_ties_dropped_statsmodels"][name]
        fit, plain = fitted(battles)[0], fitted(battles, order=False)[0]
        yield f"order effect, ties half, {name}", float(fit.order[0]), half["order"], 1e-4
        yield f"  likelihood with it, {name}", fit.nll, half["nll"], 1e-3
        yield f"  without, {name}", plain.nll, half["nll_without"], 1e-3
        decided = battles.take(battles.outcome != 0.5)
        fit, plain = fitted(decided)[0], fitted(decided, order=False)[0]
        place = len(battles.systems)
        inverse = np.linalg.inv(fit.hessian[1 : place + 1, 1 : place + 1])
        yield f"order effect, ties dropped, {name}", float(fit.order[0]), dropped["order"], 1e-4
        yield f"  standard error, {name}", float(np.sqrt(inverse[-1, -1])), dropped["se"], 1e-4
        yield f"  likelihood ratio, {name}", 2 * (plain.nll - fit.nll), dropped["lr"], 1e-3
    for key, order in (("crowd_gpt4_without_order", False), ("crowd_gpt4_with_order", True)):
        fit = fitted(both, order=order, sharpness=True)[0]
        yield f"judge-aware, order {order}: likelihood", fit.nll, golden["judge_aware"][key]["nll"], 1e-3
        yield "  sharpness of GPT-4", float(fit.sharpness[1]), golden["judge_aware"][key]["gamma_gpt4"], 1e-3
    for place, value in enumerate(golden["judge_aware"]["crowd_gpt4_with_order"]["order"]):
        yield f"  order effect, {both.judges[place]}", float(fit.order[place]), value, 1e-4
    ratio = 2 * (fit.nll - fitted(crowd)[0].nll - fitted(gpt4)[0].nll)
    yield "likelihood ratio against ratings of their own", ratio, golden["judge_aware"]["lr_against_ratings_of_their_own"]["lr"], 2e-3


def majorities(crowd: Battles, gpt4: Battles, golden: dict[str, Any]) -> Iterator[Line]:
    """Compare triangles per prompt, and GPT-4's agreement with the crowd's majority."""
    for name, battles in (("crowd", crowd), ("gpt4", gpt4)):
        found = circles._triangles(battles.outcome, circles._prompts(battles))
        for count, key in zip(found, ("decided", "cyclic", "with_a_tied_pair"), strict=True):
            yield f"triangles of a prompt, {name}: {key}", count, golden["triangles_per_prompt"][name][key], 0
    votes: dict[tuple[str, frozenset[str]], float] = {}
    said: list[tuple[tuple[str, frozenset[str]], float]] = []
    for battles, judge in ((crowd, False), (gpt4, True)):
        for left, right, outcome, prompt in zip(battles.left, battles.right, battles.outcome, battles.prompt, strict=True):
            pair = sorted((battles.systems[left], battles.systems[right]))
            value = (2 * outcome - 1) * (1 if pair[0] == battles.systems[left] else -1)
            key = battles.prompts[prompt], frozenset(pair)
            if judge:
                said.append((key, value))
            else:
                votes[key] = votes.get(key, 0.0) + value
    shared = [(np.sign(votes[key]), value) for key, value in said if votes.get(key)]
    agreed = [majority == value for majority, value in shared]
    yield "agreement with the crowd's majority", float(np.mean(agreed)), golden["agreement_with_crowd_majority"]["all"], 5e-5
    decided = float(np.mean([majority == value for majority, value in shared if value]))
    yield "  where GPT-4 decides", decided, golden["agreement_with_crowd_majority"]["where_gpt4_decides"], 5e-5


def judgebench(path: Path, golden: dict[str, Any]) -> Iterator[Line]:
    """Count o1-mini's verdicts as JudgeBench does: each order +1 right, -1 wrong, else 0; right if the sum is positive."""
    right = {"A>B": {"A>B": 1, "A>>B": 1, "B>A": -1, "B>>A": -1}, "B>A": {"B>A": 1, "B>>A": 1, "A>B": -1, "A>>B": -1}}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    turned = {"A>B": "B>A", "B>A": "A>B"}
    # The second order shows the answers swapped, so that its A is the first one's B.
    sums = [
        right[row["label"]].get(row["order_1"]["decision"], 0) + right[turned[row["label"]]].get(row["order_2"]["decision"], 0)
        for row in rows
    ]
    yield "JudgeBench, o1-mini: accuracy", 100 * float(np.mean([each > 0 for each in sums])), golden["accuracy"], 5e-5


def main() -> None:
    """Print a table of numbers, ours and theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not (folder / "golden.json").is_file():
        sys.exit(f"{folder}: no golden.json; name the folder with the votes and the golden numbers")
    golden = json.loads((folder / "golden.json").read_text())
    crowd, gpt4 = (read([str(folder / f"llmfao-{name}.csv.gz")]).battles for name in ("crowd", "gpt4"))
    both = read([str(folder / f"llmfao-{name}.csv.gz") for name in ("crowd", "gpt4")]).battles
    crowd, gpt4 = replace(crowd, judges=("crowd",)), replace(gpt4, judges=("gpt4",))
    lines = [
        *evalica(crowd, golden["evalica_0.4.2_crowd"]),
        *arena_rank("crowd", crowd, golden["arena_rank_0.1.1"]["crowd"]),
        *arena_rank("gpt4", gpt4, golden["arena_rank_0.1.1"]["gpt4"]),
        *judge_aware(crowd, gpt4, both, golden),
        *majorities(crowd, gpt4, golden),
        *judgebench(folder / "judgebench-o1-mini.jsonl", golden["judgebench_o1_mini"]),
    ]
    print("| | ours | theirs | within | |\n| --- | --- | --- | --- | --- |")
    wrong = 0
    for what, ours, theirs, tolerance in lines:
        held = abs(ours - theirs) <= tolerance
        wrong += not held
        print(f"| {what} | {ours:.6g} | {theirs:.6g} | {tolerance:g} | {'' if held else 'DIFFERS'} |")
    sys.exit(f"{wrong} numbers differ" if wrong else 0)


if __name__ == "__main__":
    main()
