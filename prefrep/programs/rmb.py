"""RMB."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.benchmarks import run


def rmb(**options: Any) -> dict[str, Any]:
    """RMB: 49 scenarios of helpfulness and harmlessness, pairs and best of N.

    A pair counts when the chosen response scores strictly higher, a best-of-N row when the best response beats every other one. Overall
    is the mean of the four means over rows; means over scenarios stand beside it. Rows (--data) are a copy of the folder RMB_dataset, or a
    part of it: the path of a file is its scenario.

    Examples:
        prefrep eval rmb --model runs/mine/export --data RMB_dataset --out runs/mine/rmb

    Args:
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation.registry import JUDGED

    return run(JUDGED["rmb"].benchmark(), **options)
