"""Results of RewardBench from per-sample scores: subsets, sections and overall with intervals, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError, UsageError
from prefrep.evaluation.rows import PairScore, RankedScore
from prefrep.metrics import intervals
from prefrep.metrics import rewardbench as rules

Scalarisation = Literal["rewards", "round-robin", "mean-logit", "wins", "beat-all"]
Floats = NDArray[np.float64]
Row = TypeVar("Row", PairScore, RankedScore)

# Rows of the full benchmarks; if the data have fewer, the results state it.
FULL_V1 = {subset: n for table in rules.SECTIONS["current"].values() for subset, n in table.items()} | {"math-prm": 447}
FULL_V2 = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Settings of the bootstrap.

    Args:
        draws: Number of resamples.
        seed: Seed of the resampling.
    """

    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.seed < 0:
            raise UsageError(f"bootstrap draws must be at least 1 and the seed 0 or more, got {self.draws} and {self.seed}")


def entry(score: float, n: int, draws: Floats) -> dict[str, Any]:
    """Return a number as `results.json` holds it."""
    return {"score": float(score), "n": int(n), "ci95": list(intervals.percentile_interval(draws))}


def _by_subset(rows: Sequence[Row], known: Iterable[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {name: [] for name in known}
    for row in rows:
        found.setdefault(row.subset, []).append(row)
    return {name: group for name, group in found.items() if group}


def _completeness(groups: Mapping[str, Sequence[object]], full: Mapping[str, int]) -> list[str]:
    missing = [name for name in full if name not in groups]
    notes = []
    if missing:
        notes.append(f"partial data: {len(full) - len(missing)} of {len(full)} subsets; missing: {', '.join(missing)}")
    notes += [
        f"partial data: {name} has {len(groups[name])} of {n} rows" for name, n in full.items() if name in groups and len(groups[name]) < n
    ]
    return notes


def pair_results(rows: Sequence[PairScore], weights: rules.Weights = "current", bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Return the results of RewardBench 1: subsets, sections and overall with intervals.

    Args:
        rows: Per-sample scores.
        weights: Weights of the sections.
        bootstrap: Settings of the bootstrap, which resamples pairs within their subset and recomputes sections and overall.
    """
    boot = bootstrap or Bootstrap()
    groups = _by_subset(rows, [*FULL_V1, *rules.PRIOR_SUBSETS])
    wins = {name: np.array([pair_credit(row) for row in group], dtype=np.float64) for name, group in groups.items()}
    draws = {name: intervals.bootstrap_means(won, boot.draws, intervals.stream(boot.seed, name)) for name, won in wins.items()}
    means = {name: np.asarray(won.mean()) for name, won in wins.items()}
    everything = np.concatenate(list(wins.values()))
    pooled = np.asarray(sum(draws[name] * len(won) for name, won in wins.items()) / len(everything))
    notes = _completeness(groups, FULL_V1)
    tables = rules.section_weights(wins, weights)
    if tables:
        sections, section_draws = rules.section_scores(means, weights), rules.section_scores(draws, weights)
        counts = {name: sum(len(wins[subset]) for subset in table) for name, table in tables.items()}
        overall = entry(float(rules.overall_score(sections)), sum(counts.values()), rules.overall_score(section_draws))
        absent = [name for name in rules.SECTIONS[weights] if name not in tables]
        if absent:
            notes.append(f"overall is the mean of {', '.join(tables)} only; sections without data: {', '.join(absent)}")
        if rules.PRIOR in tables:
            notes.append(f"overall is the leaderboard's weighted mean: each section counts 2, {rules.PRIOR} 1")
        unknown = [name for name in groups if not any(name in table for table in tables.values())]
        if unknown:
            notes.append(f"in no section, so not in overall: {', '.join(name or '(no subset)' for name in unknown)}")
    else:
        sections, section_draws, counts = {}, {}, {}
        overall = entry(float(everything.mean()), len(everything), pooled)
        notes.append("no subset belongs to a section of RewardBench: overall is the accuracy over all rows")
    flat = [name for name, won in wins.items() if won.min() == won.max()]
    if flat:
        notes.append(
            f"all pairs of {', '.join(flat)} have the same outcome, so the bootstrap has no spread there; wilson95 has better intervals"
        )
    equal = sum(row.score == 0 for row in rows)
    if equal:
        notes.append(f"{equal} pairs have equal scores, which count as wrong")
    if silent := sum(math.isnan(row.score) for row in rows):
        notes.append(f"{silent} pairs have no verdict, which counts 0.5 (the rule of the official generative runner)")
    return {
        "benchmark": "rewardbench",
        "weights": weights,
        "tie_treatment": "strict: chosen must score higher; equal scores count as wrong",
        "overall": overall,
        "sections": {name: entry(float(score), counts[name], section_draws[name]) for name, score in sections.items()},
        "subsets": {name: entry(float(means[name]), len(won), draws[name]) for name, won in wins.items()},
        "accuracy": entry(float(everything.mean()), len(everything), pooled),
        "wilson95": {
            name: list(intervals.accuracy_interval(int(won.sum()), len(won))) for name, won in wins.items() if np.isin(won, (0, 1)).all()
        },
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "partial": any(name not in groups or len(groups[name]) < n for name, n in FULL_V1.items()),
        "notes": notes,
    }


def rule_of(results: Mapping[str, Any]) -> str:
    """Return the rule of an overall score in words: overalls of different rules cannot be compared."""
    if "rule" in results:
        return str(results["rule"])
    if results["benchmark"] == "rewardbench":
        return f"weights: {results['weights']}"
    return f"ties: {results['ties']}; scores: {results['scalarisation']}"


def pair_credit(row: PairScore) -> float:
    """Return the credit of a pair: whether chosen scores higher; 0.5 without a verdict, as in the official generative runner."""
    return 0.5 if math.isnan(row.score) else float(row.score > 0)


def credit(row: RankedScore, rule: Scalarisation) -> float:
    """Return the credit of a best-of-4 row: the official shared top, or under `beat-all` whether the first answer beats all others.

    Without any verdict it is 0.25, and an answer without a rating is worse than all others: the rules of the official generative runner.
    """
    if all(map(math.isnan, row.scores)):
        return 0.25
    return float(row.scores[0] > 0) if rule == "beat-all" else rules.best_of_credit(rated(row.scores))


def rated(scores: Sequence[float]) -> tuple[float, ...]:
    """Return ratings with -1 for those that could not be read, which is below all others."""
    return tuple(-1.0 if math.isnan(score) else score for score in scores)


def ranked_results(
    rows: Sequence[RankedScore], ties: rules.TiesRule = "main", rule: Scalarisation = "rewards", bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Return the results of RewardBench 2: subsets and overall with intervals; `wilson95` of subsets without shared credit.

    Args:
        rows: Per-sample scores.
        ties: Rule of the Ties subset.
        rule: Origin of the scores; only `rewards` is official, and `beat-all` leaves Ties out.
        bootstrap: Settings of the bootstrap, which resamples prompts within their subset, and for Ties the pairs of prompts on a question.
    """
    boot = bootstrap or Bootstrap()
    groups = _by_subset(rows, rules.SUBSETS_V2)
    notes = _completeness(groups, FULL_V2)
    official = rule == "rewards"
    if gaps := sum(any(map(math.isnan, row.scores)) for row in rows):
        notes.append(
            f"{gaps} prompts have answers without a verdict: without any they count 0.25, and an answer without a rating has -1 "
            "(the rules of the official generative runner)"
        )
    if not official:
        notes.append(f"not official: RewardBench 2 has no rule for models that compare answers; each answer's score is '{rule}'")
    scores: dict[str, float] = {}
    draws: dict[str, Floats] = {}
    wilson: dict[str, list[float]] = {}
    flat: list[str] = []
    for name, group in groups.items():
        generator = intervals.stream(boot.seed, name)
        if name != rules.TIES:
            credits = np.array([credit(row, rule) for row in group])
            scores[name], draws[name] = float(credits.mean()), intervals.bootstrap_means(credits, boot.draws, generator)
            if np.isin(credits, (0, 1)).all():
                wilson[name] = list(intervals.accuracy_interval(int(credits.sum()), len(credits)))
            if credits.min() == credits.max():
                flat.append(name)
            several = sum(row.num_correct != 1 for row in group)
            if several:
                notes.append(f"{name}: {several} rows have several correct answers, of which best-of-4 uses the first only")
        elif rule == "beat-all":
            notes.append("Ties is left out of overall: 'beat-all' gives no scores from which margins could be computed")
        else:
            terms = rules.ties_terms([rules.TiesRow(row.id, row.num_correct, rated(row.scores)) for row in group], ties)
            scores[name] = float(rules.ties_from_terms(terms))
            resampled = intervals.bootstrap_indices(len(terms), boot.draws, generator) if len(terms) else np.zeros((boot.draws, 0), int)
            draws[name] = rules.ties_from_terms(terms[resampled])
            if len(terms) and np.array_equal(terms, np.broadcast_to(terms[0], terms.shape), equal_nan=True):
                flat.append(name)
            silent = [term for column, term in enumerate(rules.TIES_TERMS) if not np.isfinite(terms[:, column]).any()]
            if silent:
                notes.append(
                    f"Ties: no prompt contributes to {', '.join(silent)}, which count as 0; the score is below that of complete data"
                )
    if flat:
        better = [name for name in flat if name in wilson]
        where = f"; wilson95 has better intervals for {', '.join(better)}" if better else ""
        notes.append(f"all prompts of {', '.join(flat)} have the same outcome, so the bootstrap has no spread there{where}")
    counted = [name for name in scores if name in FULL_V2] or list(scores)
    if not counted:
        raise DataError("only Ties rows, and 'beat-all' cannot score them; use another --scalarisation")
    unknown = [name for name in scores if name not in counted]
    if unknown:
        notes.append(f"not a subset of RewardBench 2, so not in overall: {', '.join(name or '(no subset)' for name in unknown)}")
    absent = [name for name in FULL_V2 if name not in scores]
    if absent:
        notes.append(f"overall is the mean of {', '.join(name or '(no subset)' for name in counted)} only")
    overall = entry(
        float(np.mean([scores[name] for name in counted])),
        sum(len(groups[name]) for name in counted),
        np.mean([draws[name] for name in counted], axis=0),
    )
    return {
        "benchmark": "rewardbench2",
        "ties": ties,
        "tie_treatment": "best-of-4: answers that tie for the top share the credit" if rule != "beat-all" else "strict: all others beaten",
        "scalarisation": rule,
        "official": official,
        "overall": overall,
        "sections": {},
        "subsets": {name: entry(scores[name], len(groups[name]), draws[name]) for name in scores},
        "wilson95": wilson,
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "partial": any(name not in groups or len(groups[name]) < n for name, n in FULL_V2.items()),
        "notes": notes,
    }
