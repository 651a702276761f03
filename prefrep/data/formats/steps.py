"""Solutions step by step: trees of steps with their values, and solutions whose first wrong step is known."""

from __future__ import annotations

from collections.abc import Sequence

from prefrep.data.fields import named, number, prompt_of, text, text_response
from prefrep.data.formats.base import Format, has, is_texts
from prefrep.data.turns import MisfitError, Row, kind, need
from prefrep.records import VALUE, RankedResponses, Record


def solution(steps: Sequence[str]) -> str:
    """Return the text of steps: one a line."""
    return "\n".join(steps)


def _steps(value: object, name: str) -> list[str]:
    if not is_texts(value) or not all(each.strip() for each in value):  # type: ignore[attr-defined]
        raise MisfitError(f"'{name}' must be a list of steps, none of them empty, found {kind(value)}")
    return list(value)  # type: ignore[call-overload, no-any-return]


def _tree(row: Row) -> Record:
    """Read a step of a tree: siblings, which share prompt and prefix, become ranked responses, each the solution up to its step.

    Q is the probability that a solution which goes on from there is right (arXiv:2406.10858 estimates it by tree search).
    """
    need(row, "step", "Q")
    before = row.get("prefix") or []
    before = [text(before, "prefix")] if isinstance(before, str) else _steps(before, "prefix") if before else []
    value = number(row["Q"], "Q")
    if not 0 <= value <= 1:
        raise MisfitError(f"'Q' must lie in [0, 1], found {value:g}", "values in [-1, 1] are written as (Q + 1) / 2")
    names = named(row) | {"criterion": VALUE}
    names["tags"] = {**names["tags"], "prefix": solution(before)}
    (step,) = _steps([row["step"]], "step")
    return RankedResponses(prompt_of(row), (text_response(solution([*before, step]), "step"),), (value,), **names)


def _first_wrong(row: Row) -> Record:
    """Read a solution as its beginnings, each a response: value 1 before the first wrong step, and 0 from there on."""
    need(row, "steps")
    steps, wrong = _steps(row["steps"], "steps"), row.get("first_wrong")
    if wrong is None:
        wrong = len(steps)
    elif isinstance(wrong, bool) or wrong not in range(len(steps)):
        raise MisfitError(f"'first_wrong' must be the index of a step, 0 to {len(steps) - 1}, or null, found {wrong!r:.60}")
    beginnings = tuple(text_response(solution(steps[: i + 1]), "steps") for i in range(len(steps)))
    values = tuple(float(i < wrong) for i in range(len(steps)))
    return RankedResponses(prompt_of(row), beginnings, values, **(named(row) | {"criterion": VALUE}))


STEPS = Format('{"prompt", "prefix": [STEPS] or TEXT, "step": TEXT, "Q": 0..1}', has("prompt", "prefix", "step", "Q"), _tree, gathers=True)
FIRST_WRONG = Format('{"prompt", "steps": [TEXT], "first_wrong": INDEX or null}', has("prompt", "steps", "first_wrong"), _first_wrong)
