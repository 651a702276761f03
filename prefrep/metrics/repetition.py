"""Repetition within a text."""

from __future__ import annotations


def repetition(text: str, size: int = 4) -> float:
    """Return the share of n-grams of words that occurred before in the text (seq-rep-n, Welleck et al., arXiv 1908.04319).

    Args:
        text: The text; words are separated by white space.
        size: n.

    Returns:
        A number in [0, 1); 0 for a text of fewer than n words.

    Example:
        >>> round(repetition("to be or not to be or not to be", size=4), 3)  # 3 of 7
        0.429
    """
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
