"""Comparisons by a model with several objectives (ArmoRM, QRM, LDL): one reading gives the score of each, and results a table of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prefrep.data.mapped import Mapped
from prefrep.evaluation.rows import PairScore, RewardScore
from prefrep.records import Comparison, as_responses


def scores_by_objective(
    scorer: Any, pairs: Iterable[Comparison], names: Sequence[str], progress: str
) -> Iterator[tuple[float, dict[str, float], tuple[float, float]]]:
    """Yield of each comparison its score, the score of each objective, and the rewards of chosen and rejected.

    Args:
        scorer: A `Scorer` or `Workers` of a model with several objectives.
        pairs: The comparisons.
        names: The objectives.
        progress: Label of the progress bar.
    """
    for found in scorer.objective_rewards(map(as_responses, pairs), progress=progress):
        chosen, rejected = found.tolist()
        score, *each = (a - b for a, b in zip(chosen, rejected, strict=True))
        yield score, dict(zip(names, each, strict=True)), (chosen[0], rejected[0])


def results_by_objective(rows: Sequence[Any], results: Callable[[Any], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the results of each objective by name; empty, unless all rows are comparisons by a model with several.

    Args:
        rows: Scored rows.
        results: Aggregates rows.
    """
    names = list(rows[0].objectives or {}) if rows and isinstance(rows[0], PairScore) else []
    for row in rows if names else ():
        names = [name for name in names if name in (row.objectives or {})]
    return {name: results(Mapped(rows, partial(_alone, name=name))) for name in names}


def _alone(row: PairScore, name: str) -> PairScore:
    """Return a row with the score of one objective."""
    assert row.objectives is not None
    alone = replace(row, score=row.objectives[name], objectives=None)
    return replace(alone, rewards=None) if isinstance(alone, RewardScore) else alone


def objective_lines(results: Mapping[str, Any], lines: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    """Return the table of each objective below its name.

    Args:
        results: Results with `objectives`, or without.
        lines: Returns the table of some results.
    """
    shown: list[str] = []
    for name, found in results.get("objectives", {}).items():
        notes = [note for note in found["notes"] if note not in results["notes"]]
        shown += ["", f"objective {name}", *lines({**found, "model": results["model"], "notes": notes})]
    return shown
