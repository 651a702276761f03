"""The rule behind every accuracy on pairs: when a verdict on a comparison is right."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """Outcome of one comparison.

    Args:
        right: Whether the verdict is right.
        prompt: Prompt of the comparison, since comparisons on one prompt are not independent. Empty: a prompt of its own.
    """

    right: bool
    prompt: str = ""


def is_right(score: float, probability: float) -> bool | None:
    """Return whether the response that the data prefer scores strictly higher; equal scores are wrong.

    Args:
        score: Log-odds of chosen over rejected.
        probability: P(chosen wins) in the data.

    Returns:
        None if the data call it a tie, which no verdict gets right.
    """
    if probability == 0.5:
        return None
    return score > 0 if probability > 0.5 else score < 0
