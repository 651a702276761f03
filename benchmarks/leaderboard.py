"""Time and memory of `prefrep eval leaderboard` on many battles, beside peers where they are installed (`pip install evalica arena-rank`).

    python -m benchmarks.leaderboard [--battles N] [--systems K] [--resamples B]

arena-rank 0.1.1 fits ratings without an order effect and gives sandwich intervals, as we do; evalica 0.4.2 fits ratings alone. Battles are
drawn anew and written to a Parquet file first. Peers come last, so that their threads and memory are not ours. Run it with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet
from scipy.special import expit

from prefrep.battles import Battles
from prefrep.data.battles import read
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import Settings

Found = TypeVar("Found")


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


def evalica(battles: Battles) -> Callable[[], Any]:
    """Return evalica's fit of battles, with its input made."""
    import evalica as library

    kinds = {1.0: library.Winner.X, 0.0: library.Winner.Y, 0.5: library.Winner.Draw}
    sides = [[battles.systems[code] for code in column] for column in (battles.left, battles.right)]
    winners = [kinds[float(outcome)] for outcome in battles.outcome]
    return lambda: library.bradley_terry(*sides, winners)


def arena_rank_read(path: Path) -> Any:
    """Return battles as arena-rank reads them, its import of JAX included."""
    import arena_rank.models.bradley_terry  # noqa: F401  (switches JAX to 64 bits, as those who use it do)
    import pandas
    from arena_rank.utils.data_utils import PairDataset

    return PairDataset.from_pandas(pandas.read_parquet(path))


def arena_rank_fit(dataset: Any) -> dict[str, float]:
    """Return arena-rank's ratings by name, in points."""
    from arena_rank.models.bradley_terry import BradleyTerry

    found = BradleyTerry(len(dataset.competitors)).compute_ratings_and_cis(dataset)
    return dict(zip(found["competitors"], map(float, found["ratings"]), strict=True))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--battles", type=int, default=1_000_000)
    parser.add_argument("--systems", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    lines: list[str] = []

    def lap(what: str, call: Callable[[], Found]) -> tuple[Found, float]:
        """Return a result and the seconds it took."""
        cpu, began = time.process_time(), time.perf_counter()
        found = call()
        spent = time.perf_counter() - began
        lines.append(f"| {what} | {spent:.2f} | {time.process_time() - cpu:.2f} |")
        return found, spent

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "battles.parquet"
        written(path, options.battles, options.systems)
        battles, reading = lap("read from Parquet", lambda: read([str(path)]).battles)
        found, fitting = lap(
            "ratings, order effect, sandwich intervals, ranks, pairs that differ", lambda: rated.evaluate(battles, Settings())
        )
        resampled = Settings(interval="bootstrap", resamples=options.resamples)
        lap(f"the same with {options.resamples} resamples", lambda: rated.evaluate(battles, resampled))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if importlib.util.find_spec("evalica"):
            lap("evalica: ratings alone, of lists in memory", evalica(battles))
        if importlib.util.find_spec("arena_rank"):
            theirs, loading = lap("arena-rank: read from Parquet", lambda: arena_rank_read(path))
            points, rating = lap("arena-rank: ratings, sandwich intervals", lambda: arena_rank_fit(theirs))
            ours = {row["name"]: row["rating"]["value"] for row in rated.evaluate(battles, Settings(order=False)).results["systems"]}
            gap = max(abs(ours[name] - value) for name, value in points.items())
            lines.append(f"\nreading, ratings and intervals take {(reading + fitting) / (loading + rating):.2f} of arena-rank's time")
            lines.append(f"largest difference of a rating, without an order effect: {gap:.3f} points")
    size = f"{options.battles:,} battles, {len(found.battles.systems)} systems"
    print(f"{size}; memory before the peers: {memory:.2f} GiB\n\n| | s | CPU s |\n| --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
