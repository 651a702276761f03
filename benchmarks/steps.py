"""What `Checkpoints`, which listens to signals, and the run's provenance cost in a training step, beside Lightning's `ModelCheckpoint`.

Fits of equal length with ours, with Lightning's and with neither alternate in one process. None saves before its end. The figure is CPU
time (user and system, of this process): on a machine that others use, the clock counts their work too.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.common import Report, arguments
from prefrep.callbacks import Checkpoints
from prefrep.data.preference import PreferenceData
from prefrep.modules import GeneralPreference
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.training.provenance import Provenance

LATER = timedelta(hours=9)
WARM = 5  # steps at the beginning of a fit that do not count
CALLBACKS: dict[str, Callable[[str], list[Callback]]] = {
    "ours": lambda folder: [Checkpoints(folder, train_time_interval=LATER), Provenance({})],
    "ModelCheckpoint": lambda folder: [ModelCheckpoint(folder, train_time_interval=LATER)],
    "neither": lambda folder: [],
}


class Steps(Callback):
    """Notes CPU seconds and the clock at the beginning of every step."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the time."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.times.append((used.ru_utime + used.ru_stime, time.perf_counter()))


def fit(model: str, callbacks: Callable[[str], list[Callback]], data: Path, steps: int) -> tuple[float, float]:
    """Train with LoRA on one pair a step.

    Returns:
        CPU seconds and seconds on the clock of a step.
    """
    seed_everything(0, verbose=False)
    module = GeneralPreference(partial(Backbone, model, lora=LoRA(2)), optimizer=partial(torch.optim.AdamW, lr=1e-4))
    clock = Steps()
    with TemporaryDirectory() as folder:
        given = callbacks(folder)
        trainer = Trainer(
            accelerator="cpu", max_steps=steps + WARM + 1, max_epochs=-1, logger=False, enable_progress_bar=False, default_root_dir=folder,
            enable_model_summary=False, use_distributed_sampler=False, callbacks=[clock, *given], enable_checkpointing=len(given) > 0,
        )  # fmt: skip
        trainer.fit(module, PreferenceData(str(data), batch_size=1, cache=None))
    (cpu, begin), (more, end) = clock.times[WARM], clock.times[WARM + steps]
    return (more - cpu) / steps, (end - begin) / steps


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = arguments(__doc__)
    it.add_argument("--models", nargs="+", default=["bundled:tiny-llama", "bundled:smollm2-135m"], help="language models")
    it.add_argument("--steps", type=int, default=200, help="steps of a fit")
    it.add_argument("--rounds", type=int, default=5, help="fits of each kind")
    return it


def main(args: Sequence[str] | None = None) -> None:
    """Trains, compares, prints, writes."""
    options = parser().parse_args(args)
    if options.quick:
        options.models, options.steps, options.rounds = options.models[:1], 10, 1
    report, rows = Report("steps", options), []
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        pairs = ({"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(50))
        data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
        for model in options.models:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in CALLBACKS}
            for turn in range(options.rounds):
                for name in list(CALLBACKS)[:: -1 if turn % 2 else 1]:
                    found[name].append(fit(model, CALLBACKS[name], data, options.steps))
            for other in ("ModelCheckpoint", "neither"):
                ratios = [a[0] / b[0] for a, b in zip(found["ours"], found[other], strict=True)]
                clock = [a[1] / b[1] for a, b in zip(found["ours"], found[other], strict=True)]
                name = model.removeprefix("bundled:")
                spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
                milliseconds = [median(each[0] for each in found[which]) * 1e3 for which in ("ours", other)]
                rows.append([f"{name}, against {other}", f"{median(ratios):.3f}", spread, f"{median(clock):.3f}", *milliseconds])
                if other == "ModelCheckpoint":
                    report.goal(f"{name}: CPU time of a step against ModelCheckpoint", median(ratios), 1.01, at_least=False, unit="x")
    report.table("a training step", ["", "CPU time", "over rounds", "clock", "ms CPU, ours", "ms CPU, other"], rows)
    report.save()


if __name__ == "__main__":
    main()
