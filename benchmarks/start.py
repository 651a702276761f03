"""Startup time: of `--help`, of the first training step, of an exported model.

Every figure is the wall time of a whole process, including the start of Python, imports and exit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.common import QUICK_RESULTS, ROOT, Report, arguments, interleave, timed
from benchmarks.models import SMOLLM2, TINY, write_model

PROGRAMS = sorted(path.name for path in (ROOT / "bin").iterdir() if path.name not in ("setup", "test"))
GOAL, SCORE_GOAL = 2.0, 5.0  # seconds
EMPTY = "pass"
SCORE = "exported folder: load, rank two answers, end"
TORCH = "import torch, transformers, lightning.pytorch"
LOAD = (
    "import sys; from prefrep.scoring import Scorer; "
    "print(Scorer.from_pretrained(sys.argv[1], device='cpu').rank('Name a prime', ['7', '9']))"
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name or folder")
    it.add_argument("--rounds", type=int, default=3)
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.rounds = TINY, 1
    report = Report("start", options)
    folder, data = prepare(options.model)
    help_of = {f"bin/{name} --help": [str(ROOT / "bin" / name), "--help"] for name in PROGRAMS[: 1 if options.quick else None]}
    config = str(ROOT / "configs" / ("tiny" if options.quick else "preference") / "gpm.yaml")
    fit = [str(ROOT / "bin" / "prefrep"), "fit", "--config", config, "--model.backbone.path", options.model, "--data.train", str(data)]
    settings = {"accelerator": "cpu", "max_steps": "1", "accumulate_grad_batches": "1", "callbacks": "null", "logger": "false"}
    settings |= {"enable_checkpointing": "false", "default_root_dir": str(QUICK_RESULTS / "start")}
    fit += [word for name, value in settings.items() for word in (f"--trainer.{name}", value)]
    others = {
        "python alone": [sys.executable, "-c", EMPTY],
        "torch, transformers, lightning imported": [sys.executable, "-c", TORCH],
        "bin/prefrep fit --help, every setting": [str(ROOT / "bin" / "prefrep"), "fit", "--help"],
        "bin/prefrep fit, one step, end": fit,
        SCORE: [sys.executable, "-c", LOAD, str(folder)],
    }
    runs = {name: process(command) for name, command in (help_of | others).items()}
    for run in [] if options.quick else runs.values():
        run()  # warm-up: compiled bytecode, and files in the page cache
    seconds = interleave(runs, options.rounds)
    alone = median(seconds["torch, transformers, lightning imported"])
    report.table(
        f"wall seconds of a process, {options.model}",
        ["", "/ imports alone", "s", "slowest s"],
        [[name, median(times) / alone, median(times), max(times)] for name, times in seconds.items()],
    )
    report.goal("start: slowest --help", max(median(seconds[name]) for name in help_of), GOAL, at_least=False, unit=" s")
    report.goal("start: to the first score, and the end", median(seconds[SCORE]), SCORE_GOAL, at_least=False, unit=" s")
    report.raw["seconds"] = seconds
    report.save()


def process(command: list[str]) -> Callable[[], float]:
    """Time a command; an error has its output as the message."""

    def run() -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")

    return timed(run)


def prepare(model: str) -> tuple[Path, Path]:
    """Write an exported folder with a random head, and four training pairs."""
    place = QUICK_RESULTS / "start"
    place.mkdir(parents=True, exist_ok=True)
    write_model(model, place / "model")
    rows = [{"prompt": f"Name the number after {i}", "chosen": str(i + 1), "rejected": "No."} for i in range(4)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place / "model", place / "pairs.jsonl"


if __name__ == "__main__":
    main()
