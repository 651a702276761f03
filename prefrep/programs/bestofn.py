"""Best of N."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.benchmarks import run


def bestofn(**options: Any) -> dict[str, Any]:
    """Best of N: the response that the model puts first, against chance and an oracle.

    Rows (--data) are prompts with N responses and their correctness or grades: PPE's correctness sets, or any ranked format with scores.
    The curve is over the first k responses. Models that compare choose by the mean log-odds over the other responses.

    Examples:
        prefrep eval bestofn --model runs/mine/export --data ranked.jsonl --out runs/mine/bestofn

    Args:
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation.registry import JUDGED

    return run(JUDGED["bestofn"].benchmark(), **options)
