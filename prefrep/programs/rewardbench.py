"""RewardBench 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prefrep.evaluation.benchmarks import Benchmark, run
from prefrep.evaluation.scores import PairScore, RankedScore, RewardScore
from prefrep.evaluation.summary import Bootstrap, Scalarisation
from prefrep.records import Record
from prefrep.scoring.interface import PreferenceScorer


def rewardbench(
    *, weights: Literal["current", "0.1.2"] = "current", also_swap: bool = False, restart: bool = False, **options: Any
) -> dict[str, Any]:
    """RewardBench: does the chosen answer win? 23 subsets, 4 sections.

    A pair counts when the chosen answer scores strictly higher. Overall is the mean of the weighted sections.

    Examples:
        prefrep eval rewardbench --model runs/mine/export --out runs/mine/rewardbench
        prefrep eval rewardbench --scores runs/mine/rewardbench/scores.jsonl --weights 0.1.2 --out runs/mine/rewardbench-0.1.2

    Args:
        weights: Weights of the sections; 0.1.2: with the swapped XSTest weights, as the GPM repository reports.
        also_swap: Also compare with chosen and rejected swapped.
        restart: Discard the scores that the output folder holds.
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """

    def score(scorer: PreferenceScorer, records: list[Record], out: Path, model: Mapping[str, Any], restart: bool) -> list[PairScore]:
        from prefrep.evaluation.rewardbench import score_pairs

        return score_pairs(scorer, records, out, model, restart)

    def results(rows: list[PairScore], known: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
        from prefrep.evaluation.summary import pair_results

        return pair_results(rows, weights, bootstrap)

    benchmark = Benchmark("rewardbench", "allenai/reward-bench:filtered", RewardScore, score, results)
    return run(benchmark, also_swap=also_swap, restart=restart, **options)


def rewardbench2(
    *,
    ties: Literal["main", "0.1.4"] = "main",
    scalarisation: Literal["rewards", "round-robin", "mean-logit", "wins", "beat-all"] | None = None,
    also_swap: bool = False,
    restart: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """RewardBench 2: best of 4 answers, and prompts with several correct ones.

    The official rules do not cover models that compare answers. The output names the scalarisation that gave each answer a score.

    Examples:
        prefrep eval rewardbench2 --model runs/mine/export --ties main --out runs/mine/rewardbench2

    Args:
        ties: Version of the official code that scores the Ties subset.
        scalarisation: How an answer gets one score; default: rewards, the official rule, for Bradley-Terry models, round-robin for others.
        also_swap: Also compare with chosen and rejected swapped.
        restart: Discard the scores that the output folder holds.
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """

    def score(scorer: PreferenceScorer, records: list[Record], out: Path, model: Mapping[str, Any], restart: bool) -> list[RankedScore]:
        from prefrep.evaluation.rewardbench import score_ranked

        return score_ranked(scorer, records, out, model, rule(scorer.pairwise), restart)

    def results(rows: list[RankedScore], known: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
        from prefrep.errors import ConfigError
        from prefrep.evaluation.summary import ranked_results

        stated = known.get("scalarisation")
        if stated and scalarisation not in (None, stated):
            raise ConfigError(f"these scores were made by '{stated}'; another --scalarisation needs the model")
        return ranked_results(rows, ties, stated or rule(known["pairwise"]), bootstrap)

    def rule(pairwise: bool | None) -> Scalarisation:
        return scalarisation or ("round-robin" if pairwise else "rewards")

    benchmark = Benchmark("rewardbench2", "allenai/reward-bench-2:test", RankedScore, score, results)
    return run(benchmark, also_swap=also_swap, restart=restart, **options)
