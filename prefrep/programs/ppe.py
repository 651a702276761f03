"""PPE."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.benchmarks import run


def ppe(**options: Any) -> dict[str, Any]:
    """PPE: human preference of Chatbot Arena, and correctness with best-of-K curves.

    Accuracy on pairs of a better and a worse response; for the correctness sets also the correctness of the response that the model puts
    first among the first k, and the area under the ROC curve. A file or folder is named after its set: GPQA, MATH, MMLU-Pro, MBPP-Plus,
    IFEval.

    Examples:
        prefrep eval ppe --model runs/mine/export --out runs/mine/ppe
        prefrep eval ppe --model runs/mine/export --data PPE-GPQA-Best-of-K/ --out runs/mine/ppe-gpqa

    Args:
        **options: See `prefrep.evaluation.benchmarks.run`.

    Returns:
        The content of `results.json`.

    Raises:
        PrefrepError: Options that do not go together; model, data or saved scores cannot be read.
    """
    from prefrep.evaluation.registry import JUDGED

    return run(JUDGED["ppe"].benchmark(), **options)
