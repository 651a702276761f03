"""Comparisons by a model with several objectives (ArmoRM, QRM, LDL): one reading gives the score of each, and results a table of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast, overload

from prefrep.evaluation.rows import PairScore, RewardScore
from prefrep.records import Comparison, as_responses

Kind = TypeVar("Kind", bound=PairScore)


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
    return {name: results(_Alone(rows, name)) for name in names}


class _Alone(Sequence[Kind]):
    """Rows with the score of one objective.

    Args:
        rows: The rows.
        name: The objective.
    """

    def __init__(self, rows: Sequence[Kind], name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Kind]:
        return map(self._of, self._rows)

    @overload
    def __getitem__(self, index: int) -> Kind: ...
    @overload
    def __getitem__(self, index: slice) -> list[Kind]: ...
    def __getitem__(self, index: int | slice) -> Kind | list[Kind]:
        return list(map(self._of, self._rows[index])) if isinstance(index, slice) else self._of(self._rows[index])

    def _of(self, row: Kind) -> Kind:
        assert row.objectives is not None
        alone = replace(row, score=row.objectives[self._name], objectives=None)
        return cast(Kind, replace(alone, rewards=None)) if isinstance(alone, RewardScore) else alone


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
