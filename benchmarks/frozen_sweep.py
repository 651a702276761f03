"""Cost of a grid of heads on a frozen backbone with cached hidden states, against one run through the backbone.

All runs are complete runs of the trainer (encoding, reading, training), one epoch over the same pairs in the same order; the backbone is in
memory before any of them starts. Wall time and CPU seconds are reported, since CPU seconds exclude other load on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Report, arguments, interleave, median_ratio, synchronize
from benchmarks.models import SMOLLM2, TINY, place

SAMPLES = Path(__file__).parents[1] / "prefrep" / "data" / "samples" / "ultrafeedback-mini.jsonl"
GOAL = 1.2  # relative to one run through the backbone, for the whole grid
ONE = "GPM, d = 4"  # the model of the single run


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--data", default=str(SAMPLES), help="preference data")
    it.add_argument("--prompts", type=int, default=400, help="maximum number of rows")
    it.add_argument("--batch", type=int, default=16, help="prompts per batch")
    it.add_argument("--rounds", type=int, default=3, help="repetitions of single run, grid with an empty cache and grid with a full cache")
    it.add_argument("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed")
    it.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return it


def grid() -> dict[str, Any]:
    """Return twenty models: dimensions, operators, losses, seeds."""
    from prefrep.modules import BradleyTerry, GeneralPreference
    from prefrep.modules.remembered import Point
    from prefrep.nn.heads import GPMHead
    from prefrep.nn.losses import HingeLoss, RegressionLoss
    from prefrep.nn.skew import GatedSkew, LearnedSkew

    models: dict[str, Any] = {"BT": BradleyTerry}
    models |= {f"GPM, d = {dim}": partial(GeneralPreference, head=partial(GPMHead, dim=dim)) for dim in (2, 4, 6, 8)}
    models["GPM, gated"] = partial(GeneralPreference, head=partial(GPMHead, dim=8, skew=GatedSkew))
    models["GPM, learned"] = partial(GeneralPreference, head=partial(GPMHead, dim=4, skew=LearnedSkew))
    models["GPM, not normalised"] = partial(GeneralPreference, head=partial(GPMHead, dim=4, normalize=False))
    models["GPM, hinge"] = partial(GeneralPreference, head=partial(GPMHead, dim=4), loss=partial(HingeLoss, tau=0.1))
    models["GPM, regression"] = partial(GeneralPreference, head=partial(GPMHead, dim=4), loss=partial(RegressionLoss, tau=0.1))
    return {f"{name}, seed {seed}": Point(model, seed) for seed, (name, model) in itertools.product((0, 1), models.items())}


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.prompts, options.rounds, options.precision = TINY, 8, 1, "32-true"
    report = Report("frozen_sweep", options)
    from lightning.pytorch import Trainer

    from prefrep.data.encode import EncodeConfig, Encoder
    from prefrep.data.preference import PreferenceData
    from prefrep.data.sources import Source, read
    from prefrep.modules.remembered import train_each
    from prefrep.nn.backbone import Backbone

    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
        "lightning.fabric.utilities.seed",
        "prefrep",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    dtype: Any = "bfloat16" if options.precision == "bf16-mixed" else "float32"
    backbone = Backbone(place(options.model), dtype=dtype, frozen=True).to(options.device)
    points = grid()
    records = list(itertools.islice(read(Source(options.data, "auto")), options.prompts))

    class Rows(PreferenceData):
        """Preference data from memory."""

        def _read(self, name: str) -> list[Any]:
            self._contents[name] = None  # encoded rows are not kept: no file says what they depend on
            return list(records)

    folder = Path(tempfile.mkdtemp())
    trained: dict[str, dict[str, dict[str, float]]] = {}
    processor: dict[str, list[float]] = {}

    def runs(label: str, chosen: dict[str, Any], cache: str | None, clear: bool) -> Callable[[], float]:
        def trainer() -> Trainer:
            return Trainer(
                max_epochs=1, accelerator="gpu" if options.device == "cuda" else "cpu", devices=1, precision=options.precision,
                gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                use_distributed_sampler=False, log_every_n_steps=1, default_root_dir=folder,
            )  # fmt: skip

        def run() -> float:
            if clear:
                shutil.rmtree(folder / "cache", ignore_errors=True)
            data = Rows(options.data, batch_size=options.batch, max_length=1024, cache=cache)
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            trained[label] = {name: metrics for name, _, metrics in train_each(chosen, backbone, data, trainer)}
            synchronize()
            processor.setdefault(label, []).append(time.process_time() - cpu)
            seconds = time.perf_counter() - wall
            print(f"{label}: {seconds:.1f} s, {processor[label][-1]:.1f} CPU s", flush=True)
            return seconds

        return run

    one = {f"{ONE}, seed 0": points[f"{ONE}, seed 0"]}
    backbone.supports_trees()
    live, cold, warm = "1 run through the backbone", f"{len(points)} heads, empty cache", f"{len(points)} heads, full cache"
    cache = str(folder / "cache")
    variants = {live: runs(live, one, None, False), cold: runs(cold, points, cache, True), warm: runs(warm, points, cache, False)}
    runs("warm-up", one, None, False)()  # kernels are compiled at their first call
    trained.clear()
    processor.clear()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):  # the first grid fills the cache for the second, so the order is not reversed
        for name, found in interleave(variants, 1).items():
            seconds[name] += found
    kept = sum(path.stat().st_size for path in folder.glob("cache/*/*.safetensors"))
    shutil.rmtree(folder)

    encoder = Encoder(backbone.tokenizer(), EncodeConfig(max_length=1024), "single")
    start = time.process_time()
    data = [datum for _, datum in encoder.encode(records) if datum is not None]
    encoding = time.process_time() - start
    tokens = sum(datum.size for datum in data)
    per_token = {name: median(times) / tokens for name, times in processor.items()}
    ratio = {name: median_ratio(seconds[name], seconds[live]) for name in variants}
    cpu_ratio = {name: median_ratio(processor[name], processor[live]) for name in variants}
    report.table(
        f"{len(records)} prompts, {tokens} distinct tokens, batches of {options.batch}, one epoch, {options.precision}",
        ["", "x one run", "x one run (CPU s)", "s", "CPU s"],
        [[name, ratio[name], cpu_ratio[name], median(seconds[name]), median(processor[name])] for name in variants],
    )
    name = next(iter(one))
    apart = abs(trained[live][name]["train/loss"] - trained[cold][name]["train/loss"])
    report.note(f"last training loss of '{name}' through the backbone and from the cache: {apart:.1e} apart (bf16 rounds by batch shape)")
    report.note(f"the cache holds {kept / 1e6:.1f} MB; a separate run for every head would have cost {len(points)} x one run")
    report.note(f"tokenising: {tokens / encoding:.0f} tokens per CPU second, {encoding / tokens / per_token[live]:.2%} of the single run")
    report.goal(f"{len(points)} heads on a frozen backbone, of one run over it", ratio[cold], GOAL, at_least=False, unit="x")
    report.raw = {"seconds": seconds, "cpu_seconds": processor, "tokens": tokens, "encoding_cpu_s": encoding, "cache_bytes": kept,
                  "metrics": json.loads(json.dumps(trained[cold]))}  # fmt: skip
    report.save()


if __name__ == "__main__":
    main()
