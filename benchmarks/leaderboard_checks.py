"""Simulations with known truth for `prefrep eval leaderboard`: do intervals cover, does the circle test keep its level, is --next worth it?

    python -m benchmarks.leaderboard_checks [--only NAME] [--draws N]

* `coverage`: 95 % intervals of ratings, order effect, sharpness and style, by sandwich, with votes that share answers.
* `circles`: how often the circle test rejects at 5 % under a transitive judge with an order effect and answers of their own quality, under
  few circles, and under many.
* `next`: how near the ranking is to the truth after so many votes, by pairs asked at random (round robin), in Swiss rounds (Swim, arXiv
  2502.14074) and as `--next` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import combinations

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest, spearmanr

from prefrep.battles import Battle, Battles
from prefrep.data.battles import gathered
from prefrep.evaluation.leaderboard import circles as circular
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import Settings
from prefrep.functional.next_pairs import next_pairs


def simulated(
    rng: np.random.Generator,
    systems: int = 12,
    prompts: int = 40,
    pairs: int = 20,
    votes: int = 2,
    order: float = 0.4,
    gamma: float = 2.0,
    answers: float = 0.5,
    style: float = 0.0,
    circle: float = 0.0,
) -> tuple[Battles, np.ndarray]:
    """Return battles of two judges, the second `gamma` times as sharp with the opposite order effect, and the true ratings.

    Args:
        rng: Random numbers.
        systems: K.
        prompts: Number of prompts.
        pairs: Pairs of systems that are judged on each.
        votes: Votes on each pair of answers, by judges in turn.
        order: Order effect in nats.
        gamma: Sharpness of the second judge.
        answers: Standard deviation of an answer's quality around its system's, nats.
        style: Effect of a feature, nats a standard deviation.
        circle: Size of a circular part, nats: the rotation of systems placed on a circle.
    """
    truth = np.sort(rng.normal(0, 1, systems))[::-1]
    truth -= truth.mean()
    angle = rng.uniform(0, 2 * np.pi, systems)
    found = []
    everyone = list(combinations(range(systems), 2))
    for prompt in range(prompts):
        quality, length = truth + answers * rng.standard_normal(systems), rng.lognormal(0, 0.5, systems)
        for i, j in (everyone[at] for at in rng.choice(len(everyone), pairs, replace=False)):
            for vote in range(votes):
                a, b = (i, j) if rng.random() < 0.5 else (j, i)
                gap = quality[a] - quality[b] + circle * np.sin(angle[b] - angle[a])
                gap += style * (length[a] - length[b]) / (length[a] + length[b]) / 0.25 if style else 0.0
                eta = (1.0, gamma)[vote % 2] * gap + (order, -order)[vote % 2]
                outcome = float(rng.random() < expit(eta))
                features = {"length": (float(length[a]), float(length[b]))} if style else {}
                found.append(Battle(f"s{a}", f"s{b}", outcome, f"p{prompt}", f"j{vote % 2}", features=features))
    battles = gathered(found)
    return battles, np.array([truth[int(name[1:])] for name in battles.systems])


def said(name: str, hits: int, n: int) -> str:
    """Return a line of the table."""
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return f"| {name} | {hits} of {n} | {hits / n:.3f} | [{low:.3f}, {high:.3f}] |"


def coverage(draws: int) -> None:
    """Count how often 95 % intervals hold the truth."""
    for label, options in (
        ("votes independent", {"answers": 0.0, "votes": 2}),
        ("answers of their own quality, clusters: prompts", {"answers": 0.5, "prompts": 60}),
    ):
        hits = {"rating of the best": 0, "rating of the median": 0, "order effect": 0, "sharpness": 0}
        for seed in range(draws):
            battles, truth = simulated(np.random.default_rng(seed), **options)  # type: ignore[arg-type]
            found = rated.evaluate(battles, Settings(scale="nats", cluster="prompt" if options["answers"] else "none")).results
            rows = {row["name"]: row["rating"]["ci95"] for row in found["systems"]}
            # With answers of their own quality, log-odds on average over answers are flatter.
            flat = 1 / np.sqrt(1 + np.pi / 8 * 2 * float(options["answers"]) ** 2)
            order = np.argsort(-truth)
            for key, at in (("rating of the best", order[0]), ("rating of the median", order[len(order) // 2])):
                low, high = rows[battles.systems[at]]
                hits[key] += low <= truth[at] * flat <= high
            judges = {judge["name"]: judge for judge in found["judges"]}
            low, high = judges["j0"]["order"]["ci95"]
            hits["order effect"] += low <= 0.4 * flat <= high
            low, high = judges["j1"]["sharpness"]["ci95"]
            sharp = 2.0 if not options["answers"] else 2 * np.sqrt((1 + np.pi / 4 * 0.25) / (1 + np.pi / 4 * 0.25 * 4))
            hits["sharpness"] += low <= sharp <= high
        print(f"\ncoverage of 95 % intervals, {label}\n\n| | held | share | 95 % (Wilson) |\n| --- | --- | --- | --- |")
        print("\n".join(said(key, count, draws) for key, count in hits.items()), flush=True)
    hits = 0
    for seed in range(draws):
        battles, _ = simulated(np.random.default_rng(seed), answers=0.0, style=0.5, gamma=1.0)
        battles = battles.take(np.ones(len(battles), dtype=bool))
        found = rated.evaluate(battles, Settings(scale="nats", cluster="none", sharpness=False))
        _, names = rated.styled(battles)
        gap = battles.features[names[0]]
        deviation = float(np.sqrt(np.mean(((gap[:, 0] - gap[:, 1]) / gap.sum(1)) ** 2)))
        low, high = found.results["style"][0]["ci95"]
        hits += low <= 0.5 * deviation / 0.25 <= high
    print(said("style effect, votes independent", hits, draws), flush=True)


def circles(draws: int) -> None:
    """Count rejections of the circle test."""
    print(f"\nrejections at p <= 0.05, {draws} data sets, 39 draws of the null each\n")
    print("| truth | statistic | rejected | share | 95 % (Wilson) |\n| --- | --- | --- | --- | --- |")
    cases = (
        ("transitive, order effect 0.4", {"answers": 0.0}),
        ("transitive, order effect 0.4, answers differ by 1 nat", {"answers": 1.0}),
        ("few circles (0.5 nats)", {"circle": 0.5}),
        ("many circles (1.5 nats)", {"circle": 1.5}),
    )
    for label, options in cases:
        hits: dict[str, int] = {}
        for seed in range(draws):
            battles, _ = simulated(np.random.default_rng(seed), systems=9, prompts=30, **options)
            rating = rated.evaluate(battles, Settings(resamples=2))
            fit = circular.ratings.fit(rating.votes, circular._plain(rating))
            for name, each in circular._tests(rating, fit, 39)["tests"].items():
                hits[name] = hits.get(name, 0) + (each["p"] <= 0.05)
        for name, count in hits.items():
            print(said(f"{label} | {name}", count, draws), flush=True)


def next_(draws: int) -> None:
    """Compare ways to spend votes."""
    systems, spent = 30, (60, 120, 240, 480)

    def random(rng: np.random.Generator, count: int, found: rated.Rated | None) -> list[tuple[int, int]]:
        everyone = list(combinations(range(systems), 2))
        return [everyone[at] for at in rng.choice(len(everyone), count)]

    def swiss(rng: np.random.Generator, count: int, found: rated.Rated | None) -> list[tuple[int, int]]:
        order = rng.permutation(systems) if found is None else _by_number(found)[0].argsort()[::-1]
        shift = int(rng.integers(0, 2))
        return [(int(order[at]), int(order[at + 1])) for at in range(shift, systems - 1, 2)][:count]

    def informed(rng: np.random.Generator, count: int, found: rated.Rated | None) -> list[tuple[int, int]]:
        if found is None:
            return swiss(rng, count, None)
        ratings, spread = _by_number(found)
        return [(i, j) for i, j, _ in next_pairs(ratings, spread, count)]

    def _by_number(found: rated.Rated) -> tuple[np.ndarray, np.ndarray]:
        ratings, spread = np.zeros(systems), np.eye(systems) * 9.0
        place = np.array([int(name[1:]) for name in found.battles.systems])
        ratings[place] = found.fit.ratings
        spread[np.ix_(place, place)] = found.spread
        return ratings, spread

    ways: dict[str, Callable[..., list[tuple[int, int]]]] = {"round robin": random, "Swiss rounds": swiss, "--next": informed}
    scores: dict[str, list[list[float]]] = {name: [] for name in ways}
    for seed in range(draws):
        for name, way in ways.items():
            rng = np.random.default_rng(seed)
            truth = rng.normal(0, 1, systems)
            battles: list[Battle] = []
            found: rated.Rated | None = None
            line = []
            while len(battles) < spent[-1]:
                for i, j in way(rng, 15, found):
                    won = float(rng.random() < expit(truth[i] - truth[j]))
                    battles.append(Battle(f"s{i}", f"s{j}", won))
                found = rated.evaluate(gathered(battles), Settings(order=False, ridge=1 / 9))
                if len(battles) in spent:
                    line.append(float(spearmanr(_by_number(found)[0], truth).statistic))
            scores[name].append(line)
    print(f"\nSpearman's rho with the truth, {systems} systems, {draws} seeds (standard error)\n")
    print(f"| votes | {' | '.join(map(str, spent))} |\n| --- |{' --- |' * len(spent)}")
    for name, lines in scores.items():
        values = np.array(lines)
        cells = [f"{m:.3f} ({s:.3f})" for m, s in zip(values.mean(0), values.std(0) / np.sqrt(draws), strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


CHECKS = {"coverage": (coverage, 500), "circles": (circles, 200), "next": (next_, 50)}


def main() -> None:
    """Run the checks and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CHECKS, action="append", help="run this check; may be repeated")
    parser.add_argument("--draws", type=int, help="data sets; default: 500 for coverage, 200 for circles, 50 for next")
    options = parser.parse_args()
    for name in options.only or CHECKS:
        check, draws = CHECKS[name]
        check(options.draws or draws)


if __name__ == "__main__":
    main()
