"""`bin/quickstart`: what a General Preference Model can represent and a Bradley-Terry model cannot, in a few minutes on two cores.

Answers of a small language model, rated on four aspects, give two kinds of comparisons: cycles (a beats b by one aspect, b beats c by
another, c beats a by a third) and transitive ones (by the mean rating). The language model reads every text once; the heads are then
trained on its hidden states.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefrep.cli import friendly
from prefrep.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from prefrep.data.trees import TreeBatch
    from prefrep.modules import PreferenceModule
    from prefrep.nn.backbone import Backbone
    from prefrep.records import Comparison, RankedResponses

SAMPLES = Path(__file__).parents[1] / "data" / "samples" / "ultrafeedback-mini.jsonl"
NAMES = {"bt": "Bradley-Terry", "pairpm": "pair model", "gpm_d2": "GPM, d = 2", "gpm_d4": "GPM, d = 4"}


def main(args: list[str] | None = None) -> int:
    """Runs the quickstart.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for results.json, the plot and the exported model")
    parser.add_argument("--model", default="bundled:smollm2-135m", help="the language model that reads: a bundled one, a folder or a hub id")
    parser.add_argument("--prompts", type=int, default=48, help="prompts of each kind to train on; more of them take longer")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps for each head")
    parser.add_argument("--seed", type=int, default=0, help="seed of the heads' first weights and of the held-out prompts")
    options = parser.parse_args(args)
    if options.prompts < 2 or options.steps < 1:
        raise ConfigError("--prompts must be 2 or more and --steps 1 or more")
    run(options.out, options.model, options.prompts, options.steps, options.seed)
    return 0


def run(out: Path, model: str, prompts: int, steps: int, seed: int) -> dict[str, Any]:
    """Everything the program does; returns what `results.json` holds."""
    from prefrep.cli.main import quiet

    quiet()
    from prefrep.data.cyclic import cyclic_shares, split_by_prompt, transitive
    from prefrep.data.sources import read
    from prefrep.nn.backbone import Backbone

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    records: list[RankedResponses] = list(read(str(SAMPLES)))  # type: ignore[arg-type]
    train, held = split_by_prompt(records, held_out=0.25, seed=seed)
    sets = {
        "cyclic": cyclic_shares(records)[: 3 * prompts],
        "train": transitive(train[:prompts]),
        "held": transitive(held[:prompts]),
    }
    backbone = Backbone(path=model, frozen=True)
    return {}
