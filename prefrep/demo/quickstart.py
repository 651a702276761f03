"""The quickstart's experiment: four heads on one frozen language model, trained on cycles and on transitive comparisons.

SmolLM2-135M wrote four answers to each of 150 instructions, and rules rate them on four aspects (`prefrep/data/samples`). The ratings give
cycles (a beats b by one aspect, b beats c by another, c beats a by a third) and transitive comparisons (by the mean rating). The language
model reads every text once, and heads are trained on its hidden states.
"""

from __future__ import annotations

import logging
import math
import textwrap
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from prefrep.data.cyclic import cyclic_shares, split_by_prompt, transitive
from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import read
from prefrep.data.trees import TreeBatch
from prefrep.demo.picture import draw
from prefrep.disk import replace_json, replace_lines
from prefrep.evaluation.pairs import comparisons_of
from prefrep.io import folder
from prefrep.metrics.calibration import fit_temperature, log_loss
from prefrep.metrics.intervals import accuracy_interval
from prefrep.modules import BradleyTerry, GeneralPreference, PairPreference, PreferenceModule, on_states
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.records import Comparison, RankedResponses

log = logging.getLogger(__name__)

SAMPLES = "bundled:ultrafeedback-mini"
MODELS = {"bt": "Bradley-Terry", "pairpm": "PairPM", "gpm_d2": "GPM, d = 2", "gpm_d4": "GPM, d = 4"}
LEARNING_RATE = 0.005  # heads only, all comparisons at once
GAP = 1.0  # of the mean ratings (1 to 5) in a transitive comparison: four steps on the four aspects together
CALIBRATION = 24  # prompts that temperatures are fitted on
WHAT = {
    "cyclic": "Expressiveness, not generalisation: accuracy on the comparisons that the model was trained on, all of them cycles of three "
    "(as in Table 1 of arXiv:2410.02197). A model with one number per answer cannot pass 2/3.",
    "transitive": "Generalisation: trained on comparisons by mean rating, accuracy and log loss (nats; 0.693 is a coin) on held-out "
    f"prompts. One temperature per model was fitted on {CALIBRATION} other prompts, so that its probabilities mean what they say.",
    "transitive_train": "The same models on the transitive comparisons that they were trained on.",
}


class Settings(NamedTuple):
    """What the experiment depends on.

    Args:
        model: The language model that reads.
        prompts: Prompts to train on, cyclic ones and transitive ones each.
        held_out: Prompts to test on.
        steps: Optimizer steps on the cycles; a quarter of them on the transitive comparisons.
        seed: Seed of the heads and of the choice of held-out prompts.
    """

    model: str
    prompts: int
    held_out: int
    steps: int
    seed: int


def run(out: Path, settings: Settings) -> dict[str, Any]:
    """Read, train and measure; write the picture, `results.json`, and the GPM of d = 2 with its held-out comparisons.

    Args:
        out: Folder for the results.
        settings: See there.

    Returns:
        The content of `results.json`.

    Raises:
        CheckpointError: The language model cannot be read.
    """
    folder.check_base(settings.model, "reference")
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    sets = comparisons(settings)
    log.info(
        "%d cyclic comparisons; %d transitive ones to train on, %d held out", len(sets["cyclic"]), len(sets["train"]), len(sets["held"])
    )
    backbone = Backbone(path=settings.model, frozen=True)
    reads = {layout: Reading(backbone, layout) for layout in ("single", "pair")}
    for reading in reads.values():
        reading.batch([comparison for each in sets.values() for comparison in each])

    results: dict[str, Any] = {"cyclic": {}, "transitive": {}, "transitive_train": {}}
    trained: dict[str, PreferenceModule] = {}
    for name, label in MODELS.items():
        log.info("training %s", label)
        batches = {part: reads["pair" if name == "pairpm" else "single"].batch(each) for part, each in sets.items()}
        # Cycles unfold slowly; the transitive comparisons are learnt within a quarter of the steps.
        trained[name] = train(name, backbone, batches["cyclic"], settings.steps, settings.seed)
        other = train(name, backbone, batches["train"], math.ceil(settings.steps / 4), settings.seed)
        temperature = temperature_of(other, batches["calibration"])
        results["cyclic"][name] = measured(trained[name], batches["cyclic"])
        results["transitive_train"][name] = measured(other, batches["train"], temperature)
        results["transitive"][name] = measured(other, batches["held"], temperature)
        if name == "gpm_d2":
            save(out, other, temperature, backbone, sets["held"], settings)
    draw(out / "cycle.png", trained["bt"], trained["gpm_d2"], reads["single"], sets["cyclic"][:3])
    versions = {package: version(package) for package in ("prefrep", "torch", "transformers", "lightning")}
    results |= {"what": WHAT, "settings": settings._asdict(), "versions": versions, "seconds": round(time.monotonic() - started, 1)}
    replace_json(out / "results.json", results)
    return results


def comparisons(settings: Settings) -> dict[str, list[Comparison]]:
    """Return cyclic comparisons, and transitive ones to train on, to fit temperatures on, and held out: the last three on other prompts."""
    records = cast("list[RankedResponses]", list(read(SAMPLES)))
    rest, held = split_by_prompt(records, seed=settings.seed)
    train_on, others = rest[: settings.prompts], rest[settings.prompts :]
    return {
        "cyclic": cyclic_shares(train_on),
        "train": transitive(train_on, gap=GAP),
        "calibration": transitive(others[:CALIBRATION], gap=GAP),
        "held": transitive(held[: settings.held_out], gap=GAP),
    }


def train(name: str, backbone: Backbone, batch: TreeBatch, steps: int, seed: int) -> PreferenceModule:
    """Return a model of `MODELS`, trained with the same batch in every step."""
    return on_states.train(make(name, lambda: backbone), [batch] * steps, seed)


def make(name: str, backbone: Callable[[], Backbone]) -> PreferenceModule:
    """Return a model of `MODELS`, with the library's losses and temperatures."""
    optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    if name == "bt":
        return BradleyTerry(backbone, optimizer=optimizer)
    if name == "pairpm":
        return PairPreference(backbone, optimizer=optimizer)
    # Not normalised, as in the official training code: on the unit circle a cycle of three has a stable local optimum, all three at one
    # angle, and full-batch training would rest there (measured: d = 2 stays below 0.6).
    head = partial(GPMHead, dim=int(name.removeprefix("gpm_d")), normalize=False)
    return GeneralPreference(backbone, head, optimizer=optimizer)


@torch.no_grad()
def temperature_of(module: PreferenceModule, batch: TreeBatch) -> float:
    """Return the temperature that minimises the log loss on a batch; 1 where none does."""
    try:
        return fit_temperature(module(batch).numpy(), batch.probability.numpy())[0]
    except ValueError as error:
        log.warning("temperature left at 1: %s", error)
        return 1.0


@torch.no_grad()
def measured(module: PreferenceModule, batch: TreeBatch, temperature: float = 1.0) -> dict[str, Any]:
    """Return accuracy (the preferred answer scores strictly higher) with its 95 % interval, and mean log loss in nats."""
    log_odds = module(batch).numpy() / temperature
    wins, n = int(np.sum(log_odds > 0)), len(batch)
    loss = float(log_loss(log_odds, batch.probability.numpy()).mean())
    return {
        "accuracy": wins / n, "n": n, "ci95": list(accuracy_interval(wins, n)), "log_loss": loss, "temperature": temperature,
        "largest_log_odds": float(np.abs(log_odds).max()),
    }  # fmt: skip


def save(out: Path, module: PreferenceModule, temperature: float, backbone: Backbone, held: list[Comparison], settings: Settings) -> None:
    """Export a calibrated model, and write the held-out comparisons as rows that `prefrep eval` and `prefrep score` read."""
    named = comparisons_of(held)
    rows = [
        {"prompt": c.prompt[-1].content, "chosen": c.chosen[0].content, "rejected": c.rejected[0].content, "subset": c.subset, "id": c.id}
        for c in named
    ]
    replace_lines(out / "held-out.jsonl", rows)
    recipe = {"module": type(module).__name__, "quickstart": settings._asdict()}
    folder.save(
        out / "export", backbone, module.head, module.loss.tau * temperature, EncodeConfig(), backbone.tokenizer(), recipe,
        weights="reference",
    )  # fmt: skip


def table(results: Mapping[str, Any]) -> str:
    """Return the results as a table with an explanation of its columns."""

    def cell(entry: Mapping[str, Any]) -> str:
        low, high = entry["ci95"]
        return f"{entry['accuracy']:.3f} [{low:.3f}, {high:.3f}]".rjust(23)

    lines = [
        "",
        f"{'accuracy [95 % interval]':25}{'cyclic, trained on':>23}{'transitive, held out':>23}{'log loss':>10}",
        " " * 25 + "".join(f"n = {results[kind]['bt']['n']}".rjust(23) for kind in ("cyclic", "transitive")),
        *(
            f"{label:25}{cell(results['cyclic'][name])}{cell(results['transitive'][name])}{results['transitive'][name]['log_loss']:>10.3f}"
            for name, label in MODELS.items()
        ),
        "",
    ]
    for kind in ("cyclic", "transitive"):
        lines += textwrap.wrap(f"{kind}: {WHAT[kind]}", 100, subsequent_indent="  ")
    return "\n".join(lines)
