"""Growth: time and memory of `fit` (to its first step), `inspect`, `score`, `eval pairs` and `label` with the number of rows.

Each is a process of its own on the tiny model. Its exponent is that of CPU time between two sizes, above what a run on few rows takes:
1 is linear. A program whose next size is expected to take longer than `--limit` is left out there, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import log
from pathlib import Path

from benchmarks.common import QUICK_RESULTS, ROOT, Report, arguments
from benchmarks.models import TINY, write_model

ROWS = (10_000, 100_000, 1_000_000)
FEW = 100  # rows of the run that shows what starting takes
LINEAR, CONSTANT = 1.1, 1.1  # allowed exponent of time, and ratio of memory of the largest to the smallest file
AGAIN = 100_000, 10.0  # rows that were encoded before, and seconds to the first step on them
WORDS, PROMPT, RESPONSE = 5000, (4, 16), (2, 24)  # different words, and least and most words of a text
FIT = (
    "fit --config tiny/gpm --data.train {data} --data.cache {out}.cache --trainer.max_steps 1"
    " --trainer.accumulate_grad_batches 1 --trainer.callbacks null --trainer.logger false --trainer.enable_checkpointing false"
    " --trainer.default_root_dir {out} --trainer.accelerator cpu"
)
ENCODED = "fit, encoded before"
PROGRAMS = {
    "fit": FIT,
    ENCODED: FIT,  # the same command again
    "inspect": f"inspect {{data}} --tokenizer {TINY} --max-length 256",
    "score": "score --model {model} --data {data} --out {out}.jsonl --device cpu",
    "eval pairs": "eval pairs --model {model} --data {data} --out {out} --device cpu",
    "label": f"label {{data}} --out {{out}}.jsonl --model {TINY}",
}


@dataclass
class Cost:
    """What a process took: seconds, MiB.

    Args:
        wall: Wall time, s.
        cpu: CPU time of it and the processes that it started, s.
        peak: Largest memory of one of them, MiB.
    """

    wall: float
    cpu: float
    peak: float


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="sizes of the files, in ascending order")
    it.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    it.add_argument("--limit", type=float, default=3 * 3600, help="seconds that one program may be expected to take")
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.rows = [40, 80]
    report = Report("growth", options)
    folder = QUICK_RESULTS / "growth"
    shutil.rmtree(folder, ignore_errors=True)  # programs resume
    write_model(TINY, folder / "model")
    few = 4 if options.quick else FEW
    found: dict[str, dict[int, Cost]] = {name: {} for name in options.programs}
    for rows in (few, *options.rows):
        data = write_rows(folder / f"{rows}.jsonl", rows)
        for name, costs in found.items():
            measured = max(costs, default=0)
            expected = costs[measured].wall * rows / measured if measured > few else 0.0
            if expected > options.limit:
                report.note(f"{name}, {rows} rows: left out, it is expected to take {expected / 3600:.1f} h")
                continue
            out = folder / f"{name.split(',')[0].replace(' ', '-')}-{rows}"
            try:
                command = [word.format(data=data, out=out, model=folder / "model") for word in PROGRAMS[name].split()]
                costs[rows] = cost(command, out.with_suffix(".kept"))
            except RuntimeError as error:
                report.note(f"{name}, {rows} rows: {error}")
            else:
                print(f"{name}, {rows} rows: {costs[rows].wall:.0f} s", flush=True)
    for name, costs in found.items():
        table(report, name, costs, few)
    if again := found.get(ENCODED, {}).get(AGAIN[0]):
        report.goal(f"{ENCODED}: {AGAIN[0]} rows, the first step and the end", again.wall, AGAIN[1], at_least=False, unit=" s")
    report.save()


def table(report: Report, name: str, costs: Mapping[int, Cost], few: int) -> None:
    """Report a program: a line for each size, and its goals at the largest, which are those of the last size that was asked for."""
    sizes = [rows for rows in report.options.rows if rows in costs]
    start = costs[few].cpu if few in costs else 0.0
    exponents = [None, *(growth(costs, small, large, start) for small, large in pairwise(sizes))][: len(sizes)]
    rows = [
        [f"{size}", exponent, it.peak / costs[sizes[0]].peak, it.wall, it.cpu, 1e6 * (it.cpu - start) / size, it.peak]
        for size, exponent in zip(sizes, exponents, strict=True)
        for it in [costs[size]]
    ]
    report.table(name, ["rows", "exponent", "peak / first", "wall s", "CPU s", "us / row", "peak MiB"], rows)
    whole = len(sizes) == len(report.options.rows) > 1
    of = f"{report.options.rows[-1]} rows"
    report.goal(f"{name}: exponent of time up to {of}", exponents[-1] if whole else None, LINEAR, at_least=False)
    ratio = costs[sizes[-1]].peak / costs[sizes[0]].peak if whole else None
    report.goal(f"{name}: memory, {of} / {report.options.rows[0]}", ratio, CONSTANT, at_least=False)
    report.raw[name] = {str(size): asdict(it) for size, it in costs.items()}


def growth(costs: Mapping[int, Cost], small: int, large: int, start: float) -> float:
    """Return the exponent of CPU time between two sizes, above the seconds of a run on few rows."""
    above = [max(costs[rows].cpu - start, 1e-3) for rows in (small, large)]
    return log(above[1] / above[0]) / log(large / small)


def cost(command: Sequence[str], cache: Path) -> Cost:
    """Run prefrep to its end, with a cache folder of its own: the first rows of each file are those of the shorter files.

    Raises:
        RuntimeError: It failed; the message is its last line.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefrep", *command], cwd=ROOT, env={**os.environ, "PREFREP_CACHE": str(cache)}, stdout=out, stderr=out
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        out.seek(0)
        if child.returncode:
            raise RuntimeError(f"ended with code {child.returncode}: {out.read().strip().splitlines()[-1:]}")
    return Cost(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def write_rows(path: Path, rows: int) -> Path:
    """Write pairs of random words, the first of which of each file are those of the shorter files."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(WORDS)]

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for _ in range(rows):
            row = {"prompt": text(*PROMPT), "chosen": text(*RESPONSE), "rejected": text(*RESPONSE)}
            file.write(json.dumps(row) + "\n")
    return path


if __name__ == "__main__":
    main()
