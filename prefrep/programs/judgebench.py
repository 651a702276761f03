"""JudgeBench."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.benchmarks import run


def judgebench(**options: Any) -> dict[str, Any]:
    """JudgeBench: objectively correct responses against subtly wrong ones.

    A pair counts when the correct response scores strictly higher. Overall is the share of all pairs, not the mean of the categories. The
    default is the split gpt; the other one is ScalerLab/JudgeBench:claude.

    Examples:
        prefrep eval judgebench --model runs/mine/export --out runs/mine/judgebench
        prefrep eval judgebench --model runs/mine/export --data gpt.jsonl --out runs/mine/judgebench

    Args:
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation.registry import JUDGED

    return run(JUDGED["judgebench"].benchmark(), **options)
