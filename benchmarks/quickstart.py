"""Win rates and time of configs/gpo/quickstart.yaml over seeds, perhaps beside an older version of prefrep.

    python -m benchmarks.quickstart --out runs/quickstart                            # the same command goes on after a stop
    git worktree add /tmp/old COMMIT
    python -m benchmarks.quickstart --out runs/quickstart --before /tmp/old          # the other version in turn, in the same setting

OUT has a run folder per version and seed; each version runs its own quickstart. A seed decides the adapters, the order of prompts, and what
is sampled, held-out answers too. Time is that of runs that were not stopped, in seconds of the clock, with the start.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any

import yaml

from benchmarks import league
from benchmarks.common import ROOT, Report, arguments

NOW, BEFORE = "now", "before"
ROUNDS, PROMPTS, HELD_OUT = 3, 48, 48


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = arguments(__doc__)
    it.formatter_class = argparse.RawDescriptionHelpFormatter
    it.add_argument("--out", type=Path, required=True, help="folder of the runs")
    it.add_argument("--before", type=Path, help="checkout of another version of prefrep")
    it.add_argument("--seeds", type=int, default=5)
    return it


def main(args: list[str] | None = None) -> None:
    """Train what is missing, print, write."""
    options = parser().parse_args(args)
    model, rounds, prompts = ("bundled:tiny-llama", 1, 4) if options.quick else ("bundled:smollm2-135m", ROUNDS, PROMPTS)
    options.out = options.out.resolve()  # the other version runs in its own folder
    options.out.mkdir(parents=True, exist_ok=True)
    held_out = league.prompts_of(min(prompts, HELD_OUT), options.out / "held-out.txt")
    settings = argparse.Namespace(rounds=rounds, prompts=prompts, model=model)
    report = Report("quickstart", argparse.Namespace(quick=options.quick, label=options.label, seeds=options.seeds))  # no folders
    versions = {NOW: None} | ({BEFORE: options.before.resolve()} if options.before else {})
    wins, seconds = dict[str, list[float]](), dict[str, list[float]]()
    rows = []
    for seed in range(options.seeds):
        for name, checkout in versions.items():
            folder = options.out / f"{name}-{seed}"
            new, began = not folder.exists(), time.perf_counter()
            league.fit(settings, folder, configuration(checkout or ROOT, seed), seed, held_out, checkout)
            if new:
                (folder / "seconds.json").write_text(json.dumps(time.perf_counter() - began))
            took = json.loads(file.read_text()) if (file := folder / "seconds.json").exists() else None
            found = league.metrics(folder, rounds)
            win, low, high = (found[f"held_out_win_rate{end}_initial"] for end in ("", "_low", "_high"))
            rows.append([f"{name}, seed {seed}", win, low, high, took])
            wins.setdefault(name, []).append(win)
            seconds.setdefault(name, []).extend([] if took is None else [took])
    report.table(
        f"round {rounds} against the initial policy on {min(prompts, HELD_OUT)} held-out prompts, 95 % intervals over prompts",
        ["", "win rate", "from", "to", "s"],
        rows,
    )
    for name, values in wins.items():
        report.note(f"{name}: win rate {league.mean(values)} over {len(values)} seeds (95 % interval of Student)")
    ratio = median(seconds[NOW]) / median(seconds[BEFORE]) if all(seconds.get(name) for name in (NOW, BEFORE)) else None
    report.goal("quickstart: time / that of the version before", ratio, 0.4, at_least=False, unit="x")
    report.goal("quickstart: win rate below that of the version before, standard errors", below(wins), 2.0, at_least=False)
    report.raw |= {"wins": wins, "seconds": seconds}
    report.save()


def configuration(checkout: Path, seed: int) -> dict[str, Any]:
    """Return the quickstart of a version, with a seed for what is sampled."""
    content: dict[str, Any] = yaml.safe_load((checkout / "configs" / "gpo" / "quickstart.yaml").read_text())
    for each in content["trainer"]["callbacks"]:
        if each["class_path"] in ("SampleResponses", "HeldOut"):
            each["init_args"]["seed"] = seed
    return content


def below(wins: dict[str, list[float]]) -> float | None:
    """Return how far the mean over seeds is below that of the version before, in standard errors; None: there are too few runs."""
    both = [wins.get(name, []) for name in (BEFORE, NOW)]
    if min(map(len, both)) < 2:
        return None
    error = sum(variance(values) / len(values) for values in both) ** 0.5
    return (fmean(both[0]) - fmean(both[1])) / error if error else 0.0


if __name__ == "__main__":
    main()
