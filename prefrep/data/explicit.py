"""Comparisons as rows of TRL's explicit conversations, which `data.formats` reads back."""

from __future__ import annotations

from typing import Any

from prefrep.records import Comparison, turns


def explicit_row(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a row with the columns prompt, chosen, rejected, subset and id."""
    return {
        "prompt": turns(comparison.prompt),
        "chosen": turns(comparison.chosen),
        "rejected": turns(comparison.rejected),
        "subset": comparison.subset,
        "id": comparison.id,
    }
