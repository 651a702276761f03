"""Rows of judges' own files: AlpacaEval's annotations, Arena-Hard's judgments, MT-bench's pairs.

What is an error there is no verdict here. Rules of the sources that make a tie of two orders that disagree are not followed: each order is
a battle of its own, and the order effect is a part of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefrep.battles import LEFT, RIGHT, TIE, Battle

BASELINE = "baseline"
STRONG = 3.0  # Arena-Hard counts `>>` three times (show_result.py at 005ac12)
_GRADES: Mapping[str, tuple[float, float]] = {
    "A>>B": (LEFT, STRONG), "A>B": (LEFT, 1.0), "A=B": (TIE, 1.0), "B=A": (TIE, 1.0), "B>A": (RIGHT, 1.0), "B>>A": (RIGHT, STRONG),
    "A<B": (RIGHT, 1.0), "A<<B": (RIGHT, STRONG), "B<A": (LEFT, 1.0), "B<<A": (LEFT, STRONG),
}  # fmt: skip


def _arena_hard(row: Mapping[str, Any]) -> Sequence[Battle]:
    """Two games of a model against the baseline, which is A in the first and B in the second."""
    model, other = str(row["model"]), str(row.get("baseline") or BASELINE)
    if model == other:
        return []
    found = []
    for game, (left, right) in zip(row["games"], ((other, model), (model, other)), strict=False):
        outcome, weight = _GRADES.get(str((game or {}).get("score") or "").strip(), (None, 1.0))
        found.append(
            Battle(
                left,
                right,
                outcome,
                prompt=str(row.get("uid") or row.get("question_id") or ""),
                judge=str(row.get("judge") or ""),
                category=str(row.get("category") or ""),
                weight=weight,
            )
        )
    return found


def _mt_bench(row: Mapping[str, Any]) -> Sequence[Battle]:
    """Two games of two models with the answers swapped; the winners name model_1 and model_2 in both."""
    sides, judge = (str(row["model_1"]), str(row["model_2"])), row.get("judge")
    prompt = f"{row.get('question_id')}-{row.get('turn', 1)}"
    name = str(judge[0]) if isinstance(judge, list) else str(judge or "")
    found = []
    for key, swapped in (("g1_winner", False), ("g2_winner", True)):
        said = {"model_1": LEFT, "model_2": RIGHT, "tie": TIE}.get(str(row[key]))
        left, right = sides[::-1] if swapped else sides
        outcome = 1 - said if swapped and said is not None else said
        found.append(Battle(left, right, outcome, prompt=prompt, judge=name))
    return found


def _alpaca_eval(row: Mapping[str, Any]) -> Sequence[Battle]:
    """One annotation: `preference` runs from 1, output_1, to 2, output_2; which was shown first is not in the file."""
    left, right, said = str(row["generator_1"]), str(row["generator_2"]), row["preference"]
    if left == right:
        return []
    value = None if said is None or math.isnan(float(said)) else float(said)
    if value is not None and value != 0 and not 1 <= value <= 2:
        raise ValueError(f"a preference must lie between 1 and 2, found {value:g}")
    outcome = None if value is None else TIE if value == 0 else 2 - value
    lengths = tuple(float(len(str(row.get(name) or ""))) for name in ("output_1", "output_2"))
    features = {"length": (lengths[0], lengths[1])} if any(lengths) else {}
    judge, prompt = str(row.get("annotator") or ""), str(row.get("instruction") or "")
    return [Battle(left, right, outcome, prompt=prompt, judge=judge, first=0, features=features)]


Fits = Callable[[Mapping[str, Any]], bool]
Convert = Callable[[Mapping[str, Any]], Sequence[Battle]]
NESTED: Mapping[str, tuple[Fits, Convert]] = {
    "Arena-Hard": (lambda row: {"model", "games"} <= row.keys() and isinstance(row["games"], list), _arena_hard),
    "MT-bench": (lambda row: {"model_1", "model_2", "g1_winner", "g2_winner"} <= row.keys(), _mt_bench),
    "AlpacaEval": (lambda row: {"generator_1", "generator_2", "preference"} <= row.keys(), _alpaca_eval),
}
