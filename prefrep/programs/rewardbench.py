"""RewardBench 1 and 2."""

from __future__ import annotations

from typing import Any, Literal

from prefrep.evaluation.benchmarks import run


def rewardbench(*, weights: Literal["current", "0.1.2"] = "current", **options: Any) -> dict[str, Any]:
    """RewardBench: does the chosen answer win? 23 subsets, 4 sections.

    A pair counts when the chosen answer scores strictly higher. Overall is the mean of the weighted sections.

    Examples:
        prefrep eval rewardbench --model runs/mine/export --out runs/mine/rewardbench
        prefrep eval rewardbench --scores runs/mine/rewardbench/scores.jsonl --weights 0.1.2 --out runs/mine/rewardbench-0.1.2

    Args:
        weights: Weights of the sections; 0.1.2: with the swapped XSTest weights, as the GPM repository reports.
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation import registry

    return run(registry.rewardbench(weights), **options)


def rewardbench2(
    *,
    ties: Literal["main", "0.1.4"] = "main",
    scalarisation: Literal["rewards", "round-robin", "mean-logit", "wins", "beat-all"] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """RewardBench 2: best of 4 answers, and prompts with several correct ones.

    The official rules do not cover models that compare answers. The output names the scalarisation that gave each answer a score.

    Examples:
        prefrep eval rewardbench2 --model runs/mine/export --ties main --out runs/mine/rewardbench2

    Args:
        ties: Version of the official code that scores the Ties subset.
        scalarisation: How an answer gets one score; default: rewards, the official rule, for Bradley-Terry models, round-robin for others.
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation import registry

    return run(registry.rewardbench2(ties, scalarisation), **options)
