"""RM-Bench."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.benchmarks import run


def rmbench(**options: Any) -> dict[str, Any]:
    """RM-Bench: subtle errors against style, in 4 domains.

    Hard comparisons set a plain correct response against a fancier incorrect one, easy ones the reverse. The score of a domain (chat, code,
    math, safety) is the mean of hard, normal and easy; overall is the mean of the domains. A file without a column `domain` counts for the
    domain in its name, as in chat_filtered.json.

    Examples:
        prefrep eval rmbench --model runs/mine/export --data rm-bench/ --out runs/mine/rmbench
        prefrep eval rmbench --scores runs/mine/rmbench/scores.jsonl --out runs/mine/rmbench-again

    Args:
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation.registry import JUDGED

    return run(JUDGED["rmbench"].benchmark(), **options)
