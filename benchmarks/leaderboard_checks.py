"""Simulations with known truth for `prefrep eval leaderboard`: do intervals cover, does the circle test keep its level, is --next worth it?

    python -m benchmarks.leaderboard_checks [--only NAME] [--draws N]

* `coverage`: 95 % intervals of ratings, order effect, sharpness and style, by sandwich, of independent votes and of votes that share
  answers, with prompts as clusters.
* `circles`: how often each circle test rejects at 5 % under transitive judges: plain, biased (order effects, ties, one sharper than the
  other), and with answers of their own quality; and under few circles, and many.
* `next`: votes until the best system, and the whole order, are found, by a round robin, in Swiss rounds (Swim, arXiv 2502.14074) and as
  `--next` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest, norm

from prefrep.battles import Battles
from prefrep.evaluation.leaderboard import circles as circular
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import Settings
from prefrep.functional import rating_errors, ratings
from prefrep.functional.battle_votes import Votes
from prefrep.functional.next_pairs import next_pairs

NULL = 19  # draws of the null of each data set: p <= 0.05 if the data show more than all of them
DEVIATION = 0.25  # of the feature of style, about


@dataclass(frozen=True)
class World:
    """Who judges what: two judges in turn, on answers to prompts.

    Args:
        systems: K.
        prompts: Number of prompts.
        pairs: Pairs of systems that are judged on each.
        votes: Votes on each pair of answers.
        order: Order effect of the first judge in nats; that of the second is the opposite.
        gamma: Sharpness of the second judge.
        ties: Share of ties between equals.
        answers: Standard deviation of an answer's quality around its system's, nats; it makes the odds of systems flatter.
        shared: Share of the luck of a vote that belongs to the two answers. It leaves the odds as they are (Gaussian copula).
        style: Effect of a feature, nats for each `DEVIATION`.
        circle: Size of a circular part, nats: the rotation of systems placed on a circle.
    """

    systems: int = 12
    prompts: int = 40
    pairs: int = 20
    votes: int = 2
    order: float = 0.4
    gamma: float = 2.0
    ties: float = 0.0
    answers: float = 0.0
    shared: float = 0.0
    style: float = 0.0
    circle: float = 0.0

    def battles(self, rng: np.random.Generator) -> tuple[Battles, np.ndarray]:
        """Return battles and the true ratings, in nats, with sum 0."""
        truth = np.sort(rng.normal(0, 1, self.systems))[::-1]
        truth -= truth.mean()
        angle = rng.uniform(0, 2 * np.pi, self.systems)
        everyone = np.array(list(combinations(range(self.systems), 2)))
        asked = np.concatenate([everyone[rng.choice(len(everyone), self.pairs, replace=False)] for _ in range(self.prompts)])
        asked = np.repeat(asked, self.votes, axis=0)
        prompt = np.repeat(np.arange(self.prompts), self.pairs * self.votes)
        judge = np.tile(np.arange(self.votes) % 2, self.prompts * self.pairs)
        turned = rng.random(len(asked)) < 0.5
        a, b = np.where(turned, asked[:, 1], asked[:, 0]), np.where(turned, asked[:, 0], asked[:, 1])
        quality, luck = rng.standard_normal((2, self.prompts, self.systems))
        length = rng.lognormal(0, 0.5, (self.prompts, self.systems))
        gap = truth[a] - truth[b] + self.answers * (quality[prompt, a] - quality[prompt, b])
        gap += self.circle * np.sin(angle[b] - angle[a])
        long, short = length[prompt, a], length[prompt, b]
        gap += self.style * (long - short) / (long + short) / DEVIATION
        p = expit(np.where(judge == 0, gap + self.order, self.gamma * gap - self.order))
        chance = np.sqrt(self.shared / 2) * (luck[prompt, b] - luck[prompt, a]) + np.sqrt(1 - self.shared) * rng.standard_normal(len(a))
        tie = self.ties * 2 * np.minimum(p, 1 - p)
        drawn = norm.cdf(chance)
        outcome = np.where(drawn < p - tie / 2, 1.0, np.where(drawn < p + tie / 2, 0.5, 0.0))
        one, none = np.ones(len(a)), np.zeros(len(a), dtype=np.int64)
        names = tuple(f"s{number}" for number in range(self.systems))
        features = {"length": np.stack([long, short], axis=1)} if self.style else {}
        prompts = tuple(f"p{number}" for number in range(self.prompts))
        return Battles(names, ("j0", "j1"), prompts, ("",), a, b, outcome, prompt, judge, none, one, one, features), truth


def said(name: str, hits: int, n: int) -> str:
    """Return a line of the table."""
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return f"| {name} | {hits} of {n} | {hits / n:.3f} | [{low:.3f}, {high:.3f}] |"


def coverage(draws: int) -> None:
    """Count how often 95 % intervals hold the truth."""
    worlds = {
        "independent votes": World(style=0.5),
        "votes that share answers, clusters: prompts": World(style=0.5, prompts=60, shared=0.5),
        "the same, clusters: none": World(style=0.5, prompts=60, shared=0.5),
    }
    print(f"coverage of 95 % intervals, {draws} data sets each\n\n| | held | share | 95 % (Wilson) |\n| --- | --- | --- | --- |")
    for label, world in worlds.items():
        hits = dict.fromkeys(("rating of the best", "rating of the median", "order effect", "sharpness", "style"), 0)
        for seed in range(draws):
            battles, truth = world.battles(np.random.default_rng(seed))
            found = rated.evaluate(battles, Settings(scale="nats", cluster="prompt" if label.endswith("prompts") else "none")).results
            rows = {row["name"]: row["rating"] for row in found["systems"]}
            length = battles.features["length"]
            deviation = np.sqrt(np.mean(((length[:, 0] - length[:, 1]) / length.sum(1)) ** 2))
            judges = {judge["name"]: judge for judge in found["judges"]}
            for key, entry, true in (
                ("rating of the best", rows["s0"], truth[0]),
                ("rating of the median", rows[f"s{world.systems // 2}"], truth[world.systems // 2]),
                ("order effect", judges["j0"]["order"], world.order),
                ("sharpness", judges["j1"]["sharpness"], world.gamma),
                ("style", found["style"][0], world.style * deviation / DEVIATION),
            ):
                low, high = entry["ci95"]
                hits[key] += low <= true <= high
        print("\n".join(said(f"{label}: {key}", count, draws) for key, count in hits.items()), flush=True)


def circles(draws: int) -> None:
    """Count rejections of the circle tests."""
    print(f"\nrejections at p <= 0.05, {draws} data sets, {NULL} draws of the null each\n")
    print("| truth: test | rejected | share | 95 % (Wilson) |\n| --- | --- | --- | --- |")
    plain = {"systems": 9, "prompts": 30, "pairs": 15}
    biased = {**plain, "ties": 0.3, "order": 0.6}
    for label, world in {
        "plain": World(**plain, order=0.0, gamma=1.0),  # type: ignore[arg-type]
        "biased": World(**biased),  # type: ignore[arg-type]
        "biased, answers differ by 1 nat": World(**biased, answers=1.0),  # type: ignore[arg-type]
        "biased, few circles (0.5 nats)": World(**biased, circle=0.5),  # type: ignore[arg-type]
        "biased, many circles (1.5 nats)": World(**biased, circle=1.5),  # type: ignore[arg-type]
    }.items():
        hits: dict[str, int] = {}
        for seed in range(draws if world.circle == 0 else max(draws // 5, 1)):
            battles, _ = world.battles(np.random.default_rng(seed))
            rating = rated.evaluate(battles, Settings(seed=seed))
            fit = ratings.fit(rating.votes, circular._plain(rating))
            for name, each in circular._tests(rating, fit, NULL)["tests"].items():
                hits[name] = hits.get(name, 0) + (each["p"] <= 0.05)
        for name, count in hits.items():
            print(said(f"{label}: {name}", count, seed + 1), flush=True)


# ---- --next

SYSTEMS, GAP, ROUND, MOST = 10, 0.4, 10, 2000  # evenly spaced systems, nats; votes a round, about; votes at most
SHOWN = (200, 500, 1000)  # votes after which Kendall's tau is told
Ask = Callable[[np.random.Generator, list[tuple[int, int]], ratings.Fit | None, np.ndarray | None], list[tuple[int, int]]]


def _round_robin(
    rng: np.random.Generator, asked: list[tuple[int, int]], fit: ratings.Fit | None, spread: np.ndarray | None
) -> list[tuple[int, int]]:
    everyone = list(combinations(range(SYSTEMS), 2))
    at = len(asked) % len(everyone)
    return [everyone[(at + place) % len(everyone)] for place in range(ROUND)]


def _swiss(
    rng: np.random.Generator, asked: list[tuple[int, int]], fit: ratings.Fit | None, spread: np.ndarray | None
) -> list[tuple[int, int]]:
    order = rng.permutation(SYSTEMS) if fit is None else fit.ratings.argsort()[::-1]
    rounds = [[(int(order[at]), int(order[at + 1])) for at in range(shift, SYSTEMS - 1, 2)] for shift in (0, 1)]
    return rounds[0] + rounds[1]


def _informed(
    rng: np.random.Generator, asked: list[tuple[int, int]], fit: ratings.Fit | None, spread: np.ndarray | None
) -> list[tuple[int, int]]:
    if fit is None or spread is None:
        return _swiss(rng, asked, None, None)
    return [(i, j) for i, j, _ in next_pairs(fit.ratings, spread, ROUND)]


def next_(draws: int) -> None:
    """Count votes until the best system, and the order, are found for good."""
    ways: dict[str, Ask] = {"round robin": _round_robin, "Swiss rounds": _swiss, "--next": _informed}
    truth = GAP * np.arange(SYSTEMS)[::-1].astype(float)
    model = ratings.Model(SYSTEMS, order=False, ridge=1 / rated.PRIOR_SD**2)
    print(f"\nvotes until right for good (of {MOST}), {SYSTEMS} systems {GAP} nats apart, {draws} seeds: median [10 %, 90 %]\n")
    print(f"| pairs | best system | whole order | Kendall's tau after {', '.join(map(str, SHOWN))} votes |\n| --- | --- | --- | --- |")
    for name, way in ways.items():
        until, tau = np.full((2, draws), np.inf), np.full((draws, len(SHOWN)), np.nan)  # the best one, the whole order
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            true = truth[rng.permutation(SYSTEMS)]  # so that no way knows the order by the numbers
            asked: list[tuple[int, int]] = []
            won, fit, spread = np.zeros((SYSTEMS, SYSTEMS)), None, None
            while len(asked) < MOST:
                new = way(rng, asked, fit, spread)
                asked += new
                for i, j in new:
                    won[(i, j) if rng.random() < expit(true[i] - true[j]) else (j, i)] += 1
                left, right = np.nonzero(won)
                weight, one = won[left, right], np.ones(len(left))
                none = np.zeros(len(left), dtype=np.int64)
                votes = Votes(left, right, one, one, none, weight, weight, none - 1, np.zeros((len(left), 0)))
                fit = ratings.fit(votes, model, None if fit is None else fit.theta, 1e-8)
                spread = rating_errors.covariance(fit, votes)[:SYSTEMS, :SYSTEMS] if way is _informed else None
                ranked = true[np.argsort(-fit.ratings)]
                for row, held in enumerate((ranked[0] == truth[0], (np.diff(ranked) < 0).all())):
                    until[row, seed] = min(until[row, seed], len(asked)) if held else np.inf
                found = np.triu(np.sign(ranked[:, None] - ranked)).sum() / (SYSTEMS * (SYSTEMS - 1) / 2)
                tau[seed] = np.where(np.isnan(tau[seed]) & (len(asked) >= np.array(SHOWN)), found, tau[seed])
        cells = []
        for counts in until:
            middle, low, high = np.quantile(counts, (0.5, 0.1, 0.9), method="higher")
            cells.append(f"{middle:.0f} [{low:.0f}, {high:.0f}]")
        means = ", ".join(f"{value:.3f}" for value in tau.mean(0))
        print(f"| {name} | {' | '.join(cells)} | {means} |", flush=True)


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
