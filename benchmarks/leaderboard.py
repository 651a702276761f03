"""Time and memory of `prefrep eval leaderboard` on many battles, beside evalica, which fits the same ratings without intervals.

    python -m benchmarks.leaderboard [--battles N] [--systems K] [--resamples B]

Battles are drawn anew and written to a Parquet file first. CPU seconds of one process; run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from scipy.special import expit

from prefrep.data.battles import read
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import Settings


def written(path: Path, battles: int, systems: int) -> np.ndarray:
    """Write battles with an order effect and a fifth of ties; return the true ratings."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, systems)
    left = rng.integers(0, systems, battles)
    right = (left + rng.integers(1, systems, battles)) % systems
    won = rng.random(battles) < expit(truth[left] - truth[right] + 0.1)
    winner = np.where(rng.random(battles) < 0.2, "tie", np.where(won, "model_a", "model_b"))
    names = np.array([f"system-{number}" for number in range(systems)])
    table = {"model_a": names[left], "model_b": names[right], "winner": winner, "question_id": [f"q{n}" for n in range(battles)]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    return truth


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--battles", type=int, default=1_000_000)
    parser.add_argument("--systems", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    lines, began = [], time.process_time()

    def lap(what: str) -> float:
        nonlocal began
        spent, began = time.process_time() - began, time.process_time()
        lines.append(f"| {what} | {spent:.2f} |")
        return spent

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "battles.parquet"
        written(path, options.battles, options.systems)
        began = time.process_time()
        battles = read([str(path)]).battles
        reading = lap("read from Parquet")
    found = rated.evaluate(battles, Settings())
    fitting = lap("ratings, order effect, sandwich intervals, ranks, pairs that differ")
    lines.append(f"| both | {reading + fitting:.2f} |")
    rated.evaluate(battles, Settings(interval="bootstrap", resamples=options.resamples))
    lap(f"the same with {options.resamples} resamples")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    try:
        import evalica
    except ImportError:
        evalica = None
    if evalica is not None:
        kinds = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
        sides = [[battles.systems[code] for code in column] for column in (battles.left, battles.right)]
        winners = [kinds[float(outcome)] for outcome in battles.outcome]
        began = time.process_time()
        evalica.bradley_terry(*sides, winners)
        lap("evalica: ratings alone, of lists in memory")
    size = f"{options.battles:,} battles, {len(found.battles.systems)} systems"
    print(f"{size}; memory before evalica: {memory:.2f} GiB\n\n| | CPU s |\n| --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
