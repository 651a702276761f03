"""When a verdict on a comparison is right: the one rule behind every accuracy of pairs."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """What came of one comparison.

    Args:
        right: Whether the verdict is right.
        prompt: Which prompt it is about: comparisons on one prompt are not independent. Empty: on one of its own.
    """

    right: bool
    prompt: str = ""


def is_right(score: float, probability: float) -> bool | None:
    """Whether the answer that the data prefer scores strictly higher. Equal scores are wrong.

    Args:
        score: Log-odds of chosen over rejected.
        probability: P(chosen wins) by the data.

    Returns:
        None where the data call it a tie, so that no verdict is right.
    """
    if probability == 0.5:
        return None
    return score > 0 if probability > 0.5 else score < 0
