"""Best of N: quality of the response that a model ranks first, against a random choice and an oracle, for N from 1 up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefrep.evaluation.judged.benchmark import Judged
from prefrep.evaluation.judged.estimates import Estimate, Sample
from prefrep.evaluation.judged.results import assemble
from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.summary import Bootstrap
from prefrep.metrics import best_of, intervals
from prefrep.records import Record

SHARED = "responses that tie for the top share the credit; equal scores on a pair count as wrong"


def subset(record: Record) -> str:
    """Return the subset that the row states."""
    return record.subset


def choice(row: JudgedScore, first: int | None = None) -> float:
    """Return the quality of the response that the model ranks first among the first k; None: among all."""
    return best_of.value_of_choice(row.quality[:first], row.strengths(first))


def chooses_best(row: JudgedScore) -> list[tuple[str, bool]]:
    """Return one verdict: whether a best response alone is ranked first; none if all responses are equally good."""
    gold = row.quality
    return [("", choice(row) == gold.max())] if gold.min() < gold.max() else []


def pair_credit(row: JudgedScore) -> float | None:
    """Return the share of pairs of a better and a worse response that the model orders correctly; None without such a pair."""
    wins = row.wins()
    return float(wins.mean()) if len(wins) else None


def rule(rows: Sequence[JudgedScore]) -> str:
    """Return the rule of choice in words; it differs between models that score and models that compare."""
    if all(row.scores is not None for row in rows):
        return "choice: highest score"
    return "choice: highest mean log-odds over the other responses among the first k (no official rule for models that compare)"


def sizes(largest: int) -> list[int]:
    """Return the points of the curve: powers of two, and the largest number of responses."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


def curves(sample: Sample) -> dict[str, dict[str, Estimate | None]]:
    """Return the quality of the choice among the first k responses, of a random choice and of the best one, by k.

    A point covers the prompts with k responses or more. Random is the expectation, the mean quality of the first k.
    """
    found: dict[str, dict[str, Estimate | None]] = {"model": {}, "random": {}, "oracle": {}}
    for k in sizes(max(len(row.gold) for row in sample.rows)):
        enough = [row if len(row.gold) >= k else None for row in sample.rows]
        values = {
            "model": [None if row is None else choice(row, k) for row in enough],
            "random": [None if row is None else float(row.quality[:k].mean()) for row in enough],
            "oracle": [None if row is None else float(row.quality[:k].max()) for row in enough],
        }
        for name, each in values.items():
            found[name][str(k)] = sample.mean(f"{name}, {k}", each)
    return {f"best of k, {name}": points for name, points in found.items()}


def area(sample: Sample) -> Estimate | None:
    """Return the area under the ROC curve of all scores against correctness; None for grades, or if all responses have the same quality.

    Scores of models that compare are relative to the other responses to a prompt, which makes this area small if prompts differ in
    difficulty.
    """
    gold = np.concatenate([row.quality for row in sample.rows])
    if set(gold.tolist()) != {0.0, 1.0}:
        return None
    scores = np.concatenate([row.strengths() for row in sample.rows])
    order = np.argsort(scores, kind="stable")
    starts = best_of.group_starts(scores[order])
    prompts = np.repeat(sample.prompts, [len(row.gold) for row in sample.rows])[order]
    positive = gold[order] == 1
    count, generator = int(prompts.max()) + 1, intervals.stream(sample.bootstrap.seed, "area under the ROC curve")
    draws = []
    for _ in range(sample.bootstrap.draws):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)[prompts].astype(np.float64)
        draws.append(best_of.sorted_area(weights * positive, weights * ~positive, starts))
    found = np.array(draws)
    return Estimate(best_of.area_under_roc(scores, gold == 1), len(sample.rows), found[np.isfinite(found)])


def results(rows: list[JudgedScore], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the quality of the first choice among all N responses, the curve over N, and how well pairs are ordered."""
    sample = Sample(rows, bootstrap)
    credits: list[float | None] = [choice(row) for row in rows]
    graded = any(value not in (0.0, 1.0) for row in rows for value in row.gold)
    notes = ["responses have grades: scores are mean grades of choices, not accuracies"] if graded else []
    numbers = sorted({len(row.gold) for row in rows})
    if len(numbers) > 1:
        notes.append(f"prompts have {numbers[0]} to {numbers[-1]} responses: a point of the curve covers the prompts with k or more")
    alike = sum(min(row.gold) == max(row.gold) for row in rows)
    if alike:
        notes.append(f"{alike} prompts have responses of one quality only, where every choice is equally good")
    others = {
        "pairs in the right order": sample.mean("pairs", [pair_credit(row) for row in rows]),
        "area under the ROC curve": area(sample),
    }
    return assemble(
        "bestofn", rule(rows), sample, credits, sample.mean("overall", credits), {}, {}, notes=notes,
        tables={**curves(sample), "ordering": others}, tie_treatment=SHARED,
    )  # fmt: skip


BESTOFN = Judged("bestofn", (), subset, results, chooses_best, "all", "auto")
