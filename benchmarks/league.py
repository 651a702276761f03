"""Objectives of post-training against each other: equal prompts, answers and rounds, seeds, a judge with a cycle and one without.

    python -m benchmarks.league --out runs/league                          # the same command goes on after a stop
    python -m benchmarks.league --out runs/league --objectives GPO SPPO --seeds 1 --prompts 16 --rounds 2

Every policy is SmolLM2-135M with LoRA in the setting of configs/gpo/quickstart.yaml. `circular` is the majority of three jurors who each
rank answers and which runs in a circle by construction (`prefrep.judges.jurors`); `concise` is transitive. For each judge, OUT/JUDGE has a
run folder per objective and seed, `league/` (`prefrep eval league`: all against all on held-out prompts, where seeds of an objective are
one policy) and `table.md`. `prefrep report OUT/JUDGE/*` shows the rounds. Held-out answers are also compared by `on_topic`, on which nobody
is trained.

Betas are such that an answer which beats all others for sure is asked for about 5 nats over pi_t, or for 10 nats over the worst answer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

import prefrep
from prefrep.shipped import config_file

Config = dict[str, Any]

OBJECTIVES: dict[str, Config] = {
    "GPO": {"class_path": "GPOObjective", "init_args": {"beta": 0.3, "select": "all"}},
    "LN-GPO": {"class_path": "LNGPOObjective", "init_args": {"beta": 7.5, "select": "all"}},
    "SPPO": {"class_path": "SPPOObjective", "init_args": {"beta": 0.056, "select": "all"}},
    "Nash-MD": {"class_path": "NashMDObjective", "init_args": {"beta": 0.3, "select": "all"}},
    "DPO": {"class_path": "DPOObjective", "init_args": {"beta": 0.1}},
    "IPO": {"class_path": "IPOObjective", "init_args": {"beta": 0.05}},
    "distillation": {"class_path": "DistillObjective", "init_args": {"beta": 0.3}},
    "CaPO": {"class_path": "CaPOObjective", "init_args": {"beta": 0.075}},
}
JURORS = ("first", "second", "third")
BEST_OF = 8
QUICK = {"prompts": 4, "held_out": 4, "rounds": 1, "seeds": 1, "model": "bundled:tiny-llama", "objectives": ["GPO", "CaPO"]}


def main() -> None:
    """Train what is missing, compare, and print."""
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    held_out = prompts_of(options.held_out, options.out / "held-out.txt")
    for judge in options.judges:
        for seed in range(options.seeds):  # whole sets of objectives first: a table can be had early
            for name, objective in options.chosen.items():
                train(options, judge, name, objective, seed, held_out)
        compare(options, judge)


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judges", nargs="+", choices=("circular", "concise"), default=["circular", "concise"])
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=JSON", help="further objectives, as class_path and init_args")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32, help="prompts of a round")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--quick", action="store_true", help="a smoke test on a tiny random model with meaningless figures")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    options.chosen = {name: OBJECTIVES[name] for name in options.objectives}
    options.chosen |= {name: json.loads(value) for name, _, value in (each.partition("=") for each in options.also)}
    return options


def prompts_of(count: int, file: Path) -> Path:
    """Write the first held-out prompts of the quickstart into a file."""
    lines = (Path(prefrep.__file__).parent / "data" / "samples" / "held-out-prompts.txt").read_text().splitlines()
    file.write_text("".join(f"{line}\n" for line in lines[:count]))
    return file


def rule(name: str) -> Config:
    """Return the configuration of a rule as a judge."""
    return {"class_path": "RuleJudge", "init_args": {"rule": f"prefrep.judges.{name}"}}


def train(options: argparse.Namespace, judge: str, name: str, objective: Config, seed: int, held_out: Path) -> None:
    """Train a policy in a process of its own, unless it is finished; a run that was stopped goes on."""
    content = yaml.safe_load(config_file("gpo/quickstart").read_text())
    content["model"]["init_args"]["objective"] = objective
    content["trainer"]["callbacks"] = callbacks(content["trainer"]["callbacks"], judge, name, objective, seed)
    fit(options, options.out / judge / f"{name}-{seed}", content, seed, held_out)


def fit(options: argparse.Namespace, folder: Path, content: Config, seed: int, held_out: Path, checkout: Path | None = None) -> None:
    """Run a configuration with the model, seed and sizes of the options, unless it is finished; one that was stopped goes on.

    Args:
        options: Settings `rounds`, `prompts` and `model`.
        folder: Folder of the run.
        content: The configuration.
        seed: Its seed.
        held_out: File of held-out prompts.
        checkout: Folder of the version of prefrep that runs it; None: this one.
    """
    if (folder / "export").is_dir() and (folder / "rounds" / str(options.rounds) / "metrics.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    content["seed_everything"] = seed
    content["model"]["init_args"]["backbone"]["init_args"]["path"] = options.model
    content["data"]["init_args"] |= {"val": str(held_out), "round_size": options.prompts, "seed": seed}
    content["trainer"] |= {"max_epochs": options.rounds, "default_root_dir": str(folder), "enable_progress_bar": False}
    (folder / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    print(f"{folder.parent.name}: {folder.name.replace('-', ', seed ')}", flush=True)
    with (folder / "fit.log").open("a") as log:
        command = [sys.executable, "-m", "prefrep", "fit", "--config", str(folder / "run.yaml")]
        environment = os.environ | ({} if checkout is None else {"PYTHONPATH": str(checkout)})
        done = subprocess.run(command, stdout=log, stderr=log, cwd=checkout, env=environment)
    if done.returncode:
        said = (folder / "fit.log").read_text(errors="replace").strip().splitlines()
        sys.exit(f"{folder}: ended with code {done.returncode} ({said[-1] if said else ''}); the same command goes on")


def callbacks(shipped: list[Config], judge: str, name: str, objective: Config, seed: int) -> list[Config]:
    """Return the callbacks of the quickstart with the judges of the league, its seeds, and the baselines behind the first objective."""
    trainer: Config = rule(judge)
    if judge == "circular" and objective["class_path"] == "CaPOObjective":  # it reads the three jurors, not their vote
        trainer = {"class_path": "PanelJudge", "init_args": {"judges": {each: rule(f"jurors.{each}") for each in JURORS}}}
    changed = []
    for each in shipped:
        options = each.setdefault("init_args", {})
        match each["class_path"]:
            case "SampleResponses":
                options |= {"seed": seed} | ({"initial": 2} if objective["class_path"] == "NashMDObjective" else {})
            case "LabelPreferences":
                options["judge"] = trainer
            case "HeldOut":
                options |= {"judge": rule(judge), "second_judge": rule("on_topic"), "seed": seed}
                changed.append(each)
                if name == "GPO":
                    same = {key: options[key] for key in ("judge", "second_judge", "sampler", "seed")}
                    changed.append({"class_path": "Baselines", "init_args": same | {"responses": BEST_OF}})
                continue
            case "ExportPolicy":
                options["weights"] = "adapter"  # half a gigabyte less
        changed.append(each)
    return changed


def compare(options: argparse.Namespace, judge: str) -> None:
    """Write and print the league of a judge and the table of its policies."""
    folder = options.out / judge
    first = next(iter(options.chosen))
    policies = [f"start={folder}/{first}-{seed}/rounds/0" for seed in range(options.seeds)]
    policies += [f"{name}={folder}/{name}-{seed}" for name in options.chosen for seed in range(options.seeds)]
    if "GPO" in options.chosen:
        policies += [f"best of {BEST_OF}={best_of(folder / f'GPO-{seed}')}" for seed in range(options.seeds)]
    prefrep.eval.league(policy=policies, judge=f"prefrep.judges.{judge}", out=str(folder / "league"), restart=True)
    lines = table(options, folder)
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines) + "\n", flush=True)


def best_of(run: Path) -> Path:
    """Write the best of n answers of pi_0 as an answer file."""
    tables = [(run / "rounds" / "0" / f"{name}.jsonl").read_text().splitlines() for name in ("held_out", "baselines")]
    prompts, drawn = ([json.loads(line) for line in lines] for lines in tables)
    rows = [
        {"instruction": asked["prompt"], "output": line["responses"][int(np.argmax(line["scores"]))], "generator": f"best of {BEST_OF}"}
        for asked, line in zip(prompts, drawn, strict=True)
    ]
    file = run / "best-of.json"
    file.write_text(json.dumps(rows))
    return file


def table(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return what each objective reached against the initial policy, as means over seeds with Student's 95 % intervals, in Markdown."""
    keys = {
        "wins against the start": "win_rate_initial",
        "the same by `on_topic`": "second_win_rate_initial",
        "KL, nats": "kl_initial",
        "words": "words",
        "repetition": "repetition",
    }
    lines = [f"| objective | {' | '.join(keys)} |", f"|{' --- |' * (len(keys) + 1)}"]
    found = {name: [metrics(folder / f"{name}-{seed}", options.rounds) for seed in range(options.seeds)] for name in options.chosen}
    rows = {name: [[each[f"held_out_{key}"] for each in runs] for key in keys.values()] for name, runs in found.items()}
    if "GPO" in options.chosen:
        starts = [metrics(folder / f"GPO-{seed}", 0) for seed in range(options.seeds)]
        for name, kind in ((f"best of {BEST_OF}", "best_of_n"), (f"rejection sampling of {BEST_OF}", "rejection")):
            rows[name] = [[each[f"{kind}_{key}"] for each in starts if f"{kind}_{key}" in each] for key in keys.values()]
    return [*lines, *(f"| {name} | {' | '.join(map(mean, values))} |" for name, values in rows.items())]


def metrics(run: Path, number: int) -> Mapping[str, float]:
    """Return the metrics of a round."""
    found: dict[str, float] = json.loads((run / "rounds" / str(number) / "metrics.json").read_text())
    return found


def mean(values: list[float]) -> str:
    """Return a mean over seeds, with an interval if there are several."""
    if not values:
        return "-"
    middle = float(np.mean(values))
    if len(values) < 2:
        return f"{middle:.3g}"
    margin = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{middle:.3g} ± {margin:.2g}"


if __name__ == "__main__":
    main()
