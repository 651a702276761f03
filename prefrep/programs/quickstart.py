"""The paper's point in minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.writers import writes


@writes("out", folder=True)
def quickstart(
    *,
    out: str = "runs/quickstart",
    model: str = "bundled:smollm2-135m",
    prompts: int = 36,
    held_out: int = 36,
    steps: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Show what a general preference model can represent and Bradley-Terry cannot.

    A small language model reads answers that ship with prefrep. Four heads are trained on cycles of three (a beats b on one aspect, b beats
    c on another, c beats a on a third), and on transitive comparisons by mean rating. A table, a picture, an exported model and its
    evaluation are left in the output folder.

    Examples:
        prefrep quickstart

    Args:
        out: Folder for the results.
        model: Language model that reads: bundled, folder or hub id.
        prompts: Prompts to train on; time grows with them.
        held_out: Prompts to test on.
        steps: Optimizer steps on the cycles; a quarter of them on the transitive comparisons.
        seed: Seed of the heads and of the choice of held-out prompts.

    Returns:
        The content of `results.json`.

    Raises:
        ConfigError: A number is out of range.
        CheckpointError: The language model cannot be read.
    """
    from prefrep.errors import require_at_least

    for name, value in (("--prompts", prompts), ("--held-out", held_out), ("--steps", steps)):
        require_at_least(name, value, 1)
    from prefrep.demo.quickstart import Settings, run, table

    folder = Path(out)
    results = run(folder, Settings(model, prompts, held_out, steps, seed))
    print(table(results))
    print(f"\n{folder}: results.json, cycle.png, export/ (GPM, d = 2), held-out.jsonl. {results['seconds']:.0f} s. To try next:\n")
    for command in (
        f"prefrep score --model {folder}/export --data {folder}/held-out.jsonl --out {folder}/scores.jsonl",
        f"prefrep eval pairs --model {folder}/export --data {folder}/held-out.jsonl --out {folder}/pairs",
        f"prefrep report {folder}/pairs",
    ):
        print(f"  {command}")
    return results
