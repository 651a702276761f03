"""Solutions step by step: trees of steps with their values, and solutions whose first wrong step is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefrep.data.fields import named, number, prompt_of, text, text_response
from prefrep.data.formats.base import Format, has, is_texts
from prefrep.data.turns import MisfitError, Row, kind, need
from prefrep.records import VALUE, Messages, RankedResponses, Record


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


def _solution(prompt: Messages, steps: Sequence[str], values: Sequence[float], names: Mapping[str, Any]) -> Record:
    """Return a solution as its beginnings, each a response with its value."""
    beginnings = tuple(text_response(solution(steps[: i + 1]), "steps") for i in range(len(steps)))
    return RankedResponses(prompt, beginnings, tuple(values), **{**names, "criterion": VALUE})


def _until(wrong: int, count: int) -> list[float]:
    """Return the values of a solution's steps: 1 before the first wrong one, and 0 from there on."""
    return [float(i < wrong) for i in range(count)]


def _first_wrong(row: Row) -> Record:
    need(row, "steps")
    steps, wrong = _steps(row["steps"], "steps"), row.get("first_wrong")
    if wrong is None:
        wrong = len(steps)
    elif isinstance(wrong, bool) or wrong not in range(len(steps)):
        raise MisfitError(f"'first_wrong' must be the index of a step, 0 to {len(steps) - 1}, or null, found {wrong!r:.60}")
    return _solution(prompt_of(row), steps, _until(wrong, len(steps)), named(row))


def _processbench(row: Row) -> Record:
    """Read a row of ProcessBench (arXiv:2412.06559); its subset is what precedes the number in its id, such as gsm8k-12."""
    need(row, "steps", "label")
    steps, wrong, names = _steps(row["steps"], "steps"), row["label"], named(row)
    if isinstance(wrong, bool) or wrong not in range(-1, len(steps)):
        raise MisfitError(f"'label' must be the index of a step, 0 to {len(steps) - 1}, or -1 where none is wrong, found {wrong!r:.60}")
    if match := re.fullmatch(r"(\w+)-\d+", names["id"]):
        names["subset"] = names["subset"] or match[1]
    return _solution(prompt_of(row, "problem"), steps, _until(len(steps) if wrong == -1 else wrong, len(steps)), names)


def _stepwise(row: Row) -> Record:
    """Read TRL's stepwise supervision, in which PRM800K and Math-Shepherd are published too: whether each step is right."""
    need(row, "completions", "labels")
    steps, labels = _steps(row["completions"], "completions"), row["labels"]
    if not isinstance(labels, list) or len(labels) != len(steps) or any(label not in (0, 1) for label in labels):
        raise MisfitError(f"'labels' must be true or false for each of the {len(steps)} 'completions', found {labels!r:.60}")
    return _solution(prompt_of(row), steps, [float(label) for label in labels], named(row))


STEPS = Format('{"prompt", "prefix": [STEPS] or TEXT, "step": TEXT, "Q": 0..1}', has("prompt", "prefix", "step", "Q"), _tree, gathers=True)
FIRST_WRONG = Format('{"prompt", "steps": [TEXT], "first_wrong": INDEX or null}', has("prompt", "steps", "first_wrong"), _first_wrong)
PROCESSBENCH = Format('{"problem", "steps": [TEXT], "label": INDEX or -1}', has("problem", "steps", "label"), _processbench)
STEPWISE = Format('{"prompt", "completions": [TEXT], "labels": [true or false]}', has("prompt", "completions", "labels"), _stepwise)
