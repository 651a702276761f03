"""The README's picture of a leaderboard: the first systems with their intervals and ranks, and who beats whom among them.

    python -m benchmarks.leaderboard_picture FOLDER [--systems N] [--out FILE]

FOLDER holds the votes on LLMFAO's answers (CC BY 4.0: llmfao-crowd.csv.gz, llmfao-gpt4.csv.gz).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from prefrep.data.battles import read
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import Settings
from prefrep.reports.figures import STYLE
from prefrep.reports.leaderboard_plots import WON, draw_heat, draw_ratings, shares_of


def main() -> None:
    """Rate and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--systems", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "notes" / "leaderboard.png")
    options = parser.parse_args()
    battles = read([str(options.folder / f"llmfao-{name}.csv.gz") for name in ("crowd", "gpt4")]).battles
    results, count = rated.evaluate(battles, Settings()).results, options.systems
    rows, (shares, _) = results["systems"][:count], shares_of(results)
    with plt.rc_context({**STYLE, "font.size": 7.5}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.3), layout="constrained", width_ratios=[1.15, 1])
        draw_ratings(left, rows, results["scale"])
        left.set_title(f"ratings with 95 % intervals, and the ranks not excluded; {count} of {len(results['systems'])}", fontsize=8)
        draw_heat(right, shares[:count, :count], [row["name"] for row in rows], (0.0, 1.0), WON)
        right.set_title("who beats whom; grey: never compared", fontsize=8)
        right.set_xticks([])
        right.set_xlabel("the same systems, in the same order")
        figure.savefig(options.out, dpi=150)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
