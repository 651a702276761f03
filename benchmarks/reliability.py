"""Whether runs that were killed or terminated at random points, and resumed, end with the outputs of uninterrupted runs.

A point is a call of one of the functions of `EVENTS`, counted from the start of a process. Each trial interrupts a run up to three times,
resumes it with the same command, and compares its output with that of an uninterrupted run: weights, optimizer states, metrics, rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from benchmarks.common import QUICK_RESULTS, ROOT, Report, arguments

TIMINGS = ("tokens_per_s", "prompts_per_s")
LIMIT = 600.0  # time limit of a process, seconds
OBJECTIVES = ("GPOObjective", "SPPOObjective", "IPOObjective")


@dataclass(frozen=True)
class Case:
    """A run on the two-layer random model.

    Args:
        kind: `lora`, `full` or `frozen` preference models, or the objective of a policy.
        accumulate: Batches per optimizer step.
        saves: `time`: every 50 ms; `steps`: every third step.
        workers: Data loader processes.
        max_steps: Whether the run ends after a number of steps instead of epochs.
        halves: Whether validation runs twice per epoch.
        devices: Training processes, over gloo.
    """

    kind: str
    accumulate: int = 1
    saves: str = "time"
    workers: int = 0
    max_steps: bool = False
    halves: bool = False
    devices: int = 1

    @property
    def is_policy(self) -> bool:
        """Whether this is post-training."""
        return self.kind.endswith("Objective")

    @property
    def alike(self) -> Case:
        """The representative of cases with the same output, which does not depend on checkpoints and data loader processes."""
        return replace(self, saves="steps", workers=0)

    def configuration(self) -> dict[str, Any]:
        """Return the configuration without paths."""
        found: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "tiny" / ("gpo.yaml" if self.is_policy else "gpm.yaml")).read_text())
        trainer = found["trainer"] | {"accumulate_grad_batches": self.accumulate, "accelerator": "cpu", "enable_progress_bar": False}
        found["trainer"] = trainer | {"enable_model_summary": False, "logger": False, "max_epochs": 3 if self.is_policy else 2}
        rest = [each for each in trainer["callbacks"] if each["class_path"].rsplit(".", 1)[-1] not in ("Projector", "LearningRateMonitor")]
        trainer["callbacks"] = rest
        saving = next(each["init_args"] for each in rest if each["class_path"] == "Checkpoints")
        for name in ("train_time_interval", "every_n_train_steps", "every_n_epochs"):
            saving.pop(name, None)
        saving |= {"train_time_interval": "0:00:00.05"} if self.saves == "time" else {"every_n_train_steps": 3}
        found["trainer"]["callbacks"] = rest
        if self.max_steps:
            found["trainer"] |= {"max_steps": -(-BATCHES // self.accumulate) * 2 - 1, "max_epochs": -1}
        if self.devices > 1:
            found["trainer"] |= {"devices": self.devices, "strategy": "ddp"}
        if self.halves:
            found["trainer"]["val_check_interval"] = BATCHES // 2
        if self.is_policy:
            found["model"]["init_args"]["objective"] = {"class_path": self.kind, "init_args": {"beta": 0.5}}
        else:
            found["data"]["num_workers"] = self.workers
            if self.kind != "lora":
                found["model"]["init_args"]["backbone"]["init_args"] |= {"lora": None, "frozen": self.kind == "frozen"}
        return found


BATCHES = 16  # batches per epoch of a preference model
PROMPTS = 5  # three batches per round


def events() -> list[tuple[Any, str]]:
    """Return the functions whose calls are points: owners and names."""
    from prefrep import disk
    from prefrep.callbacks import checkpoints, policy, rounds
    from prefrep.data.rounds import Rounds
    from prefrep.generation import TransformersSampler
    from prefrep.io import folder
    from prefrep.judges import RuleJudge
    from prefrep.modules import GPO, GeneralPreference
    from prefrep.modules.base import LanguageModule

    return [
        (GeneralPreference, "training_step"), (GPO, "training_step"), (GeneralPreference, "validation_step"), (GPO, "measure"),
        (LanguageModule, "on_before_optimizer_step"), (LanguageModule, "on_train_epoch_end"), (LanguageModule, "on_save_checkpoint"),
        (LanguageModule, "on_train_start"), (checkpoints, "replace_path"), (checkpoints.Checkpoints, "_save"),
        (checkpoints.Checkpoints, "on_train_batch_end"), (checkpoints.Checkpoints, "on_train_end"), (TransformersSampler, "sample"),
        (RuleJudge, "judge"), (Rounds, "fill"), (rounds, "report"), (folder, "save"), (policy.policy, "save"), (os, "replace"),
        (disk, "replace_text"),
    ]  # fmt: skip


def interrupt(count: Path, point: int, number: int) -> None:
    """Count calls of the events in a file, and send this process a signal at one of them; point 0: never."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), number)
            elif not point:
                count.write_text(str(calls))
            return function(*args, **options)

        return wrapped

    for owner, name in events():
        setattr(owner, name, counted(getattr(owner, name)))


def run(case: Case, root: Path, folder: Path, point: int = 0, number: int = signal.SIGKILL) -> int:
    """Run a case in a separate process, resuming an interrupted run.

    Args:
        case: The run.
        root: Folder of the data.
        folder: The run's folder.
        point: Call at which the signal is sent; 0: none, and the number of calls is written to `count` beside the folder.
        number: The signal.

    Returns:
        Exit code, negative if a signal ended the process.
    """
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(case.configuration()))
    data = [root / name for name in (("prompts.jsonl", "prompts.jsonl") if case.is_policy else ("train.jsonl", "val.jsonl"))]
    options = ["--config", file, "--data.train", data[0], "--data.val", data[1], "--trainer.default_root_dir", folder]
    options += [] if case.is_policy else ["--data.cache", folder.with_suffix(".cache")]
    args = ["fit", *map(str, options), "--ckpt_path", "last"]

    def child() -> None:
        if case.devices > 1:
            os.setsid()
        log = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        from prefrep.cli import friendly
        from prefrep.cli.main import main

        sys.argv, sys.modules["__main__"].__spec__ = ["prefrep", *args], find_spec("prefrep.__main__")  # what Lightning starts again
        interrupt(folder.with_suffix(".count"), point, number)
        friendly.run(lambda: main(args))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise SystemExit(f"{folder}: not finished after {LIMIT:.0f} s")
    if case.devices > 1:  # a process whose partner died before they met waits for half an hour
        with suppress(ProcessLookupError):
            os.killpg(cast(int, process.pid), signal.SIGKILL)
    return int(process.exitcode or 0)


def differences(one: Path, two: Path) -> list[str]:
    """Return the outputs in which two run folders differ."""
    import torch

    found = []
    names = sorted(
        {str(file.relative_to(run)) for run in (one, two) for place in ("rounds", "export") for file in run.glob(f"{place}/**/*")}
    )
    for name in [name for name in names if not (one / name).is_dir()]:
        a, b = ((folder / name).read_bytes() if (folder / name).exists() else b"" for folder in (one, two))
        if a != b:
            found.append(name)
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)]
    for line in [*lines[0], *lines[1]]:
        for name in TIMINGS:
            line.pop(f"train/{name}", None)
    if lines[0] != lines[1]:
        found.append("metrics.jsonl")
    a, b = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, two))
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        if not _equal(a[name], b[name]):
            found.append(f"last.ckpt: {name}")
    return found


def _equal(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def prepare(root: Path) -> None:
    """Write the data."""
    random = np.random.default_rng(0)
    words = "apple river stone music light garden window paper cloud".split()

    def text(count: int) -> str:
        return " ".join(random.choice(words, count))

    root.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 2 * BATCHES), ("val", 6)):
        rows = [{"prompt": text(3), "chosen": text(4), "rejected": text(5)} for _ in range(count)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {text(2)}"}) + "\n" for _ in range(PROMPTS)))


class Trials:
    """Uninterrupted runs, each made once, and interrupted ones.

    Args:
        root: Folder of all runs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count: dict[Case, int] = {}
        prepare(root)

    def reference(self, case: Case) -> tuple[Path, int]:
        """Return the folder of the uninterrupted run, and the number of its points."""
        alike = case.alike
        folder = self.root / f"reference-{'-'.join(map(str, vars(alike).values()))}"
        if alike not in self._count:
            for old in (folder, folder.with_suffix(".cache")):
                shutil.rmtree(old, ignore_errors=True)
            if run(alike, self.root, folder):
                raise SystemExit(f"the uninterrupted run failed:\n{folder.with_suffix('.log').read_text()[-2000:]}")
            self._count[alike] = int(folder.with_suffix(".count").read_text())
        return folder, self._count[alike]

    def trial(self, name: str, case: Case, points: Sequence[int], number: int) -> tuple[int, list[str]]:
        """Interrupt a run at points one after the other, let it finish, and run the command once more.

        Returns:
            Number of interruptions; the outputs that differ, or the end of the log if the run cannot be resumed.
        """
        whole, _ = self.reference(case)
        folder, interrupted = self.root / name, 0
        codes = (-number,) if number == signal.SIGKILL else (128 + number, -number)
        for point in points:
            code = run(case, self.root, folder, point, number)
            if code not in (0, *codes):
                return interrupted, [folder.with_suffix(".log").read_text()[-300:]]
            interrupted += code != 0
        for _ in range(2):  # a finished run reports that it is finished and changes nothing
            if run(case, self.root, folder):
                return interrupted, [folder.with_suffix(".log").read_text()[-300:]]
        found = differences(whole, folder)
        if not found:
            for path in (folder.with_suffix(end) for end in (".yaml", ".log", ".count")):
                path.unlink(missing_ok=True)
            shutil.rmtree(folder)
            shutil.rmtree(folder.with_suffix(".cache"), ignore_errors=True)
        return interrupted, found


def cases() -> list[Case]:
    """Return all cases: the grid of preference models, its corners with other run lengths, three objectives, and two processes."""
    grid = [Case(*each) for each in product(("lora", "frozen", "full"), (1, 2, 4, 8), ("time", "steps"), (0, 1))]
    corners = [Case("lora", 4, saves, max_steps=long, halves=not long) for saves, long in product(("time", "steps"), (True, False))]
    policies = [Case(kind, accumulate, saves) for kind, accumulate, saves in product(OBJECTIVES, (1, 2), ("time", "steps"))]
    several = [Case("lora", accumulate, saves, devices=2) for accumulate, saves in product((1, 4), ("time", "steps"))]
    return [*grid, *corners, *policies, *several]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--kills", type=int, default=100, help="number of interruptions, over all cases in turn")
    it.add_argument("--minutes", type=float, default=float("inf"), help="minutes after which no trial starts")
    it.add_argument("--seed", type=int, default=0, help="seed of cases and points")
    return it


def main(args: list[str] | None = None) -> None:
    """Interrupt runs, compare outputs, print and save the results."""
    options = parser().parse_args(args)
    everything = cases()
    if options.quick:
        options.kills, everything = 3, [Case("frozen", 2, "steps"), Case("GPOObjective", 1, "steps")]
    report = Report("reliability", options)
    import prefrep.training.cli  # noqa: F401  forked processes share what is imported

    random, trials = np.random.default_rng(options.seed), Trials(QUICK_RESULTS / "reliability")
    order = [everything[i] for i in random.permutation(len(everything))]
    table: dict[tuple[str, str], list[int]] = {}
    interrupted = turn = 0
    start = time.monotonic()
    while interrupted < options.kills and time.monotonic() - start < 60 * options.minutes:
        case = order[turn % len(order)]
        number = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)[turn % 3]
        _, size = trials.reference(case)
        times = int(random.integers(1, 4))
        points = [int(point) for point in random.integers(1, size // times + 1, size=times)]  # counted anew after each resume
        count, found = trials.trial(f"trial-{turn}", case, points, number)
        name = f"{case.kind}, {case.devices} processes" if case.devices > 1 else case.kind
        sums = table.setdefault((name, number.name), [0, 0, 0])
        sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + count, sums[2] + bool(found)
        interrupted, turn = interrupted + count, turn + 1
        if found:
            report.note(f"trial {turn - 1}, {case}, {number.name} at calls {points}: {'; '.join(found)}")
    rows = [[f"{kind}, {name}", *sums] for (kind, name), sums in sorted(table.items())]
    report.table("interrupted runs", ["", "runs", "interruptions", "runs that differ"], rows)
    report.note(f"{turn} runs, {interrupted} interruptions, {time.monotonic() - start:.0f} s")
    report.goal("reliability: interrupted runs that end differently", float(sum(row[3] for row in rows)), 0, at_least=False)
    report.save()


if __name__ == "__main__":
    main()
