"""Exact games: duality gaps of the last and the average policy over rounds, for each objective that post-trains policies.

Every policy is the exact minimiser of the objective class that training uses (`prefrep.nn.games`). Writes a page of tables and a plot;
nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import ROOT, machine
from prefrep.data.rounds import digest, plain
from prefrep.disk import replace_path
from prefrep.nn.games import duality_gap, play
from prefrep.nn.objectives import (
    ExtragradientObjective,
    GPOObjective,
    INPOObjective,
    MagneticObjective,
    NashMDObjective,
    OptimisticObjective,
    PolicyObjective,
)

BETA, PULL, EVERY = 0.5, 0.2, 10
STEPS = (1.0, 0.5, 0.3)
OBJECTIVES: dict[str, PolicyObjective] = {
    "GPO, SPPO": GPOObjective(BETA, select="all", self_comparison=False),
    "Nash-MD": NashMDObjective(BETA, 0.25, 0.25, select="all", self_comparison=False),
    "INPO, tau 0": INPOObjective(BETA, 0.0),
    "INPO": INPOObjective(BETA, PULL * BETA),
    "optimistic": OptimisticObjective(BETA),
    "extragradient": ExtragradientObjective(BETA),
    "extragradient, tau": ExtragradientObjective(BETA, PULL * BETA),
    "magnetic": MagneticObjective(BETA, PULL * BETA, EVERY),
}
HORIZONS = (16, 64, 256)


@dataclass(frozen=True)
class Game:
    """A game and where its policies start.

    Args:
        name: Its name in tables.
        payoff: A [K, K].
        start: pi_0 [K].
        rounds: Number of rounds.
    """

    name: str
    payoff: Tensor
    start: Tensor
    rounds: int


def games(quick: bool) -> list[Game]:
    """Return rock-paper-scissors and random games; P(i > j) of the latter is sigmoid(g - g') with standard normal g, g'."""
    cycle = 0.4 * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64)
    found = [Game("rock-paper-scissors", cycle, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), 30 if quick else 200)]
    for size, seed, rounds in [(4, 0, 12)] if quick else [(10, 0, 200), (10, 1, 200), (50, 0, 100)]:
        draws = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wins = (draws - draws.T).sigmoid() - 0.5
        found.append(Game(f"K = {size}, seed {seed}", (wins - wins.T) / 2, torch.full((size,), 1 / size, dtype=torch.float64), rounds))
    return found


def played(objective: PolicyObjective, game: Game, rounds: int) -> Tensor:
    """Return the policies of `play`; a run that was finished before is read from `runs/games`."""
    about = [json.dumps(plain(objective), sort_keys=True), game.payoff.numpy().tobytes(), game.start.numpy().tobytes(), str(rounds)]
    file = ROOT / "runs" / "games" / f"{digest(about)}.npy"
    if not file.exists():
        policies = play(objective, game.payoff, game.start, rounds)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part.npy")
        np.save(draft, policies.numpy())
        replace_path(draft, file)
    return torch.from_numpy(np.load(file))


def averages(policies: Tensor) -> Tensor:
    """Return the average of the policies so far, for every round [T + 1, K]."""
    return policies.cumsum(0) / torch.arange(1, len(policies) + 1)[:, None]


def verdict(last: Tensor, average: Tensor) -> str:
    """Return in words what the gaps of a run show. The last policy is judged by the largest gap of the last fifth of the rounds."""
    tail = float(last[-(len(last) // 5) :].max())
    if tail < 0.01:
        return "last policy converges"
    if tail < 0.25 * float(last[0]):
        return "last policy approaches"
    spread = float(last[-(len(last) // 5) :].max() - last[-(len(last) // 5) :].min())
    if spread < 1e-3:
        return "settles elsewhere"
    return "cycles; the average converges" if float(average[-1]) < 0.25 * float(last[0]) else "cycles"


def slope(values: Sequence[float], rounds: Sequence[int]) -> float:
    """Return the exponent a of the least-squares fit values = c rounds^a."""
    x, y = torch.tensor(rounds).double().log(), torch.tensor(values).double().log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def theorem(game: Game, quick: bool) -> list[list[str]]:
    """Return rows of the average policy's gap after T rounds: beta of order sqrt(T) as in theorem 5.1, and optimistic steps at one beta."""
    horizons = HORIZONS[:2] if quick else HORIZONS
    rho = float(game.payoff.abs().max())
    rows = []
    for name in ("INPO, tau 0", "GPO, SPPO", "optimistic"):
        found = []
        for rounds in horizons:
            beta = rho * math.sqrt(rounds / (2 * math.log(len(game.payoff))))
            objective = {
                "INPO, tau 0": INPOObjective(beta, 0.0),
                "GPO, SPPO": GPOObjective(beta, select="all", self_comparison=False),
                "optimistic": OptimisticObjective(BETA),
            }[name]
            policies = played(objective, game, rounds - 1)
            found.append(float(duality_gap(averages(policies)[-1], game.payoff)))
        about = f"beta {BETA}" if name == "optimistic" else "beta of order sqrt(T)"
        rows.append([f"{name}, {about}", *(f"{value:.1e}" for value in found), f"{slope(found, horizons):.2f}"])
    return [["", *(f"T = {rounds}" for rounds in horizons), "exponent"], *rows]


def step_sizes(game: Game) -> list[list[str]]:
    """Return rows of the largest gap of the last fifth of the rounds, by beta; tau is the same share of beta everywhere."""
    rows = [["", *(f"beta {beta}" for beta in STEPS)]]
    for name in ("INPO, tau 0", "INPO", "optimistic", "extragradient", "magnetic"):
        cells = []
        for beta in STEPS:
            objective = {
                "INPO, tau 0": INPOObjective(beta, 0.0),
                "INPO": INPOObjective(beta, PULL * beta),
                "optimistic": OptimisticObjective(beta),
                "extragradient": ExtragradientObjective(beta),
                "magnetic": MagneticObjective(beta, PULL * beta, EVERY),
            }[name]
            last = duality_gap(played(objective, game, game.rounds), game.payoff)
            cells.append(f"{float(last[-(len(last) // 5) :].max()):.1e}")
        rows.append([name, *cells])
    return rows


def plot(found: dict[str, dict[str, tuple[Tensor, Tensor]]], file: Path) -> None:
    """Draw last (lines) and average gaps (dots) over rounds, one panel for each game."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.8), sharey=True, squeeze=False)
    for axis, (name, runs) in zip(axes[0], found.items(), strict=True):
        for color, (objective, (last, average)) in enumerate(runs.items()):
            axis.plot(last.clamp_min(1e-8), color=f"C{color}", linewidth=1, label=objective)
            axis.plot(average.clamp_min(1e-8), color=f"C{color}", linewidth=1, linestyle=":")
        axis.set(xscale="symlog", yscale="log", xlabel="round", title=name, ylim=(1e-7, 2))
    axes[0][0].set_ylabel("duality gap (line: last policy, dots: average)")
    axes[0][-1].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def main(args: list[str] | None = None) -> None:
    """Play the games and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test")
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "notes" / f"games_{day}.md", help="the page; the plot lies beside it"
    )
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    every, tables = games(options.quick), []
    gaps: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for game in every:
        marks = [number for number in (30, 100) if number < game.rounds] + [game.rounds]
        rows = [["", *(f"last, round {number}" for number in marks), "average", ""]]
        for name, objective in OBJECTIVES.items():
            policies = played(objective, game, game.rounds)
            last, average = duality_gap(policies, game.payoff), duality_gap(averages(policies), game.payoff)
            gaps.setdefault(game.name, {})[name] = (last, average)
            rows.append([name, *(f"{float(last[n]):.1e}" for n in marks), f"{float(average[-1]):.1e}", verdict(last, average)])
            print(f"{game.name}, {name}: {rows[-1][-1]}", flush=True)
        start = float(duality_gap(game.start, game.payoff))
        tables.append(f"### {game.name}\n\nThe gap of the start is {start:.2f}.\n\n{markdown(rows)}")
    rates, steps = markdown(theorem(every[0], options.quick)), markdown(step_sizes(every[0]))
    picture = options.out.with_suffix(".png")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plot({game.name: gaps[game.name] for game in every if "seed" not in game.name or "seed 0" in game.name}, picture)
    about = machine("cpu")
    page = PAGE.format(
        versions=f"torch {about['versions']['torch']}", beta=BETA, tau=PULL * BETA, every=EVERY, picture=picture.name, rates=rates,
        steps=steps, rounds=every[0].rounds,
        tables="\n\n".join(tables),
    )  # fmt: skip
    options.out.write_text(page, encoding="utf-8")
    print(f"\n{options.out}")


PAGE = """# Exact games: which objectives find a Nash policy

`benchmarks/run games` writes this page ({versions}). Policies are tables over K responses, and each round ends at the exact minimiser of
the objective class that training uses, on expectations in place of samples (`prefrep.nn.games`). So the picture speaks about the losses,
not about language models: no sampling, no optimiser, no generalisation. All objectives get the same payoffs P(i > j) - 1/2, beta is
{beta}, and tau is {tau:.2g} where it is not 0; the magnet moves every {every} rounds. The duality gap is 0 for Nash policies alone; half of
it is what a best response gains over a tie. Extragradient needs two rounds for a step. These settings are not a fair contest: they were
chosen on these games, after looking at three betas, as ones at which the methods that promise it converge. The table of step sizes shows
what other betas do.

![Duality gaps of the last and the average policy over rounds]({picture})

{tables}

The last column judges the last fifth of the rounds: all gaps below 0.01; below a quarter of the start's; a gap that no longer changes
(the Nash policy of a game with a penalty, or of one against a mixture, which is not one of this game); else a cycle.

### Step sizes

Rock-paper-scissors, the largest gap in the last fifth of {rounds} rounds. A smaller beta is a larger step: beyond some size optimistic and
pulled steps cycle as plain ones do.

{steps}

### Rates

The gap of the average policy after T rounds of rock-paper-scissors. Theorem 5.1 of the GPO paper promises O(1 / sqrt(T)), exponent -0.5,
if beta is of the order of sqrt(T); for optimistic steps O(1 / T), exponent -1, is known.

{rates}
"""

if __name__ == "__main__":
    main()
