"""Where a solution first goes wrong, told by a model's value after each of its steps (as ProcessBench asks, arXiv:2412.06559)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.rows import RankedScore, finite
from prefrep.evaluation.scores import ScoreLog, digest, distinct
from prefrep.metrics.intervals import accuracy_interval, harmonic_mean
from prefrep.records import VALUE, RankedResponses, Record
from prefrep.scoring.interface import PreferenceScorer


@dataclass(frozen=True, slots=True)
class StepScore(RankedScore):
    """A solution; `num_correct` is the number of steps before the first wrong one, and `scores` are the rewards after each step."""

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `scores.jsonl`. Raises ValueError or KeyError: it is not one."""
        scores = tuple(finite(value) for value in row["scores"])
        if not 0 <= int(row["num_correct"]) <= len(scores):
            raise ValueError(f"num_correct is {row['num_correct']} with {len(scores)} scores")
        return cls(str(row["id"]), str(row["subset"]), int(row["num_correct"]), scores)

    @property
    def wrong(self) -> int | None:
        """Index of the first wrong step; None: there is none."""
        return self.num_correct if self.num_correct < len(self.scores) else None


def solutions(records: Iterable[Record], path: str) -> list[RankedResponses]:
    """Return solutions of the formats `first-wrong`, `processbench` and `stepwise` with unique ids.

    Raises:
        DataError: There are none, or a record is something else.
    """
    found = []
    for record in records:
        if not isinstance(record, RankedResponses) or record.criterion != VALUE or not _grows(record):
            raise DataError(
                f"{record.source}: no solution; eval steps needs rows {{prompt, steps, first_wrong}}, or those of ProcessBench or TRL"
            )
        found.append(record)
    if not found:
        raise DataError(f"{path}: no rows to evaluate; look at the data with prefrep inspect")
    names = distinct(record.id or str(number) for number, record in enumerate(found, 1))
    return [replace(record, id=name) for record, name in zip(found, names, strict=True)]


def _grows(record: RankedResponses) -> bool:
    """Return whether responses are the beginnings of one solution, each right or wrong, and not sibling steps with estimates."""
    texts = [response[0].content for response in record.responses]
    return set(record.scores or ()) <= {0.0, 1.0} and all(b.startswith(a + "\n") for a, b in pairwise(texts))


def first_wrong(record: RankedResponses) -> int:
    """Return the index of the first wrong step of a solution, or the number of its steps."""
    return next((i for i, value in enumerate(record.scores or ()) if not value), len(record.responses))


def score(
    scorer: PreferenceScorer, records: Sequence[RankedResponses], out: Path, model: Mapping[str, Any], restart: bool = False
) -> list[StepScore]:
    """Read the reward after each step into `out/scores.jsonl`, one tree per solution, resuming an interrupted run.

    Raises:
        ConfigError: The model only compares, or the folder holds scores of another model or other data.
        DataError: A score is not finite.
    """
    if scorer.pairwise:
        raise ConfigError("eval steps needs a reward after each step, and this model compares responses; use a Bradley-Terry model")
    identity = {"benchmark": "steps", "model": dict(model), "data": digest(records)}
    with ScoreLog(out, StepScore, identity, [(record.id, record.subset) for record in records], restart) as log:
        rest = records[len(log.rows) :]
        for record, rewards in zip(rest, scorer.rewards(rest, progress="steps") if rest else (), strict=True):
            log.append(StepScore(record.id, record.subset, first_wrong(record), tuple(float(reward) for reward in rewards)))
        return list(log.rows)


def largest_drop(scores: Sequence[float], start: float) -> int:
    """Return the step that lowers the reward by most; `start`: the reward before the first step."""
    return int(np.argmin(np.diff([start, *scores])))


def first_below(scores: Sequence[float], threshold: float) -> int | None:
    """Return the first step whose reward is below a threshold; None: there is none."""
    return next((i for i, each in enumerate(scores) if each < threshold), None)


def best_threshold(rows: Sequence[StepScore]) -> float:
    """Return the threshold of `first_below` that is right for most solutions; amid its interval, the lowest of several."""
    # Right for a solution: above the reward of its first wrong step, and not above any before it.
    low = np.array([-np.inf if row.wrong is None else row.scores[row.wrong] for row in rows])
    high = np.array([min(row.scores[: row.num_correct], default=np.inf) for row in rows])
    low, high = np.sort(low[low < high]), np.sort(high[low < high])
    ends = np.unique([each for each in (*low, *high) if np.isfinite(each)])
    if not ends.size:  # none is right for any
        return min(min(row.scores) for row in rows)
    tried = np.array([ends[0] - 1, *(ends[:-1] + ends[1:]) / 2, ends[-1] + 1])
    return float(tried[np.argmax(np.searchsorted(low, tried) - np.searchsorted(high, tried))])


def evaluate(rows: Sequence[StepScore], others: Sequence[StepScore] | None = None) -> dict[str, Any]:
    """Return how often the first wrong step is found, with Wilson intervals, and ProcessBench's F1.

    F1 is the harmonic mean of the accuracies on wrong and on right solutions. ProcessBench chooses the threshold with the best F1 on one
    of its subsets; here it is the one that is right for most of `others`.

    Args:
        rows: Scored solutions.
        others: Other solutions, to choose the threshold on; None: no threshold, and only the largest drop is measured.

    Returns:
        `overall` (by threshold on all solutions if there is one, else by largest drop on wrong solutions), `subsets`, `threshold`,
        `start` and `notes`. What precedes the first step has no reward; the median reward after first steps stands for it.
    """
    wrong, right = [row for row in rows if row.wrong is not None], [row for row in rows if row.wrong is None]
    start = float(np.median([row.scores[0] for row in others or rows]))
    found = {"largest drop, wrong solutions": [largest_drop(row.scores, start) == row.wrong for row in wrong]}
    threshold, notes = None, []
    if others is not None:
        threshold = best_threshold(others)
        for name, chosen in (("all solutions", rows), ("wrong solutions", wrong), ("right solutions", right)):
            found[f"threshold, {name}"] = _right(chosen, threshold)
    elif right:
        notes.append(f"{len(right)} solutions without a wrong step are left out: a largest drop always names a step; use --calibrate-on")
    subsets = {name: _share(hits) for name, hits in found.items() if hits}
    if threshold is not None:
        subsets |= _f1(rows, threshold)
    if not subsets:
        raise DataError("no solution has a wrong step, so there is none to find; name others, or solutions to --calibrate-on")
    overall = subsets["threshold, all solutions"] if others is not None else subsets["largest drop, wrong solutions"]
    return {
        "benchmark": "steps", "overall": overall, "subsets": subsets, "threshold": threshold, "start": start,
        "chance": float(np.mean([1 / len(row.scores) for row in wrong])) if wrong else None, "notes": notes,
    }  # fmt: skip


def _right(rows: Sequence[StepScore], threshold: float) -> list[bool]:
    return [first_below(row.scores, threshold) == row.wrong for row in rows]


def _f1(rows: Sequence[StepScore], threshold: float) -> dict[str, dict[str, Any]]:
    """Return F1 over all solutions, and by subset where there are several; where a class of solutions is missing, there is none."""
    subsets = list(dict.fromkeys(row.subset for row in rows))
    groups = {"F1": list(rows)}
    if len(subsets) > 1:
        groups |= {f"F1, {name or '(no subset)'}": [row for row in rows if row.subset == name] for name in subsets}
    found = {}
    for name, group in groups.items():
        sides = [_right([row for row in group if (row.wrong is None) == sound], threshold) for sound in (False, True)]
        if all(sides):
            mean, (low, high) = harmonic_mean([(sum(hits), len(hits)) for hits in sides])
            found[name] = {"n": len(group), "score": mean, "ci95": [low, high]}
    return found


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return {"n": len(hits), "score": sum(hits) / len(hits), "ci95": list(accuracy_interval(sum(hits), len(hits)))}


def lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines for the terminal."""
    found = [f"{'':<32}{'n':>6}  {'score':>6}  95 % interval"]
    for name, value in results["subsets"].items():
        low, high = value["ci95"]
        found.append(f"{name:<32}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]")
    chance = results["chance"]
    said = [] if chance is None else [f"a step of a wrong solution drawn at random is its first wrong one with {chance:.3f}"]
    return [*found, "", *said, *(f"note: {note}" for note in results["notes"])]
