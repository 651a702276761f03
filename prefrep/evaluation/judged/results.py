"""What every benchmark of judged responses reports: overall, sections and subsets with intervals, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefrep.errors import DataError
from prefrep.evaluation.judged.estimates import Estimate, Sample, wilson
from prefrep.evaluation.judged.rows import JudgedScore

STRICT = "strict: the better response must score higher; equal scores count as wrong"


def assemble(
    benchmark: str,
    rule: str,
    sample: Sample,
    credits: Sequence[float | None],
    overall: Estimate | None,
    sections: Mapping[str, Estimate | None],
    members: Mapping[str, Sequence[str]],
    *,
    partial: Sequence[str] = (),
    notes: Sequence[str] = (),
    tables: Mapping[str, Mapping[str, Estimate | None]] | None = None,
    tie_treatment: str = STRICT,
) -> dict[str, Any]:
    """Return the content of `results.json`, in the shape of RewardBench's.

    Args:
        benchmark: Name of the benchmark.
        rule: The rule of the overall score in words: overalls of different rules cannot be compared.
        sample: The rows.
        credits: Credit of each row in its subset, [n]; None: the row does not count.
        overall: The overall score.
        sections: Score of each section.
        members: Subsets of each section.
        partial: How the data fall short of the full benchmark, a sentence each; empty: they are complete.
        notes: Further notes for the reader.
        tables: Further estimates by title and label.
        tie_treatment: How equal scores count, in words.

    Raises:
        DataError: No row counts.
    """
    if overall is None:
        raise DataError(f"{benchmark}: no row has a better and a worse response, so there is nothing to evaluate; look at the data")
    subsets: dict[str, Estimate] = {}
    counted: dict[str, list[float]] = {}
    intervals: dict[str, list[float]] = {}
    for name in dict.fromkeys(row.subset for row in sample.rows):
        values = [value for row, value in zip(sample.rows, credits, strict=True) if row.subset == name]
        if (estimate := sample.where([name]).mean(name, values)) is not None:
            subsets[name], counted[name] = estimate, [value for value in values if value is not None]
            if (interval := wilson(values)) is not None:
                intervals[name] = interval
    return {
        "benchmark": benchmark,
        "rule": rule,
        "tie_treatment": tie_treatment,
        "overall": overall.entry(),
        "sections": _entries(sections),
        "members": {name: [subset for subset in found if subset in subsets] for name, found in members.items() if sections.get(name)},
        "subsets": _entries(subsets),
        "tables": {title: _entries(table) for title, table in (tables or {}).items()},
        "wilson95": intervals,
        "bootstrap": {"draws": sample.bootstrap.draws, "seed": sample.bootstrap.seed},
        "partial": bool(partial),
        "notes": [*(f"partial data: {each}" for each in partial), *notes, *_remarks(sample, counted, intervals)],
    }


def _entries(estimates: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: each.entry() for name, each in estimates.items() if each is not None}


def _remarks(sample: Sample, counted: Mapping[str, Sequence[float]], intervals: Mapping[str, Sequence[float]]) -> Iterator[str]:
    flat = [name or "(no subset)" for name, values in counted.items() if min(values) == max(values)]
    if flat:
        better = "; wilson95 has better intervals" if intervals else ""
        yield f"all rows of {', '.join(flat)} have the same outcome, so the bootstrap has no spread there{better}"
    silent = sum(row.unanswered for row in sample.rows)
    if silent:
        yield f"{silent} pairs of a better and a worse response have no verdict, which is not right"
    equal = sum(_equal(row) for row in sample.rows) - silent
    if equal:
        yield f"{equal} pairs of a better and a worse response have equal scores"
    prompts = len(set(sample.prompts.tolist()))
    if prompts < len(sample.rows):
        yield f"{len(sample.rows)} rows on {prompts} prompts: intervals resample prompts"


def _equal(row: JudgedScore) -> int:
    gold = row.quality
    return int(((gold[:, None] > gold[None, :]) & (row.margins() == 0)).sum())


def missing(found: Mapping[str, int], full: Mapping[str, int], unit: str) -> list[str]:
    """Return how data fall short of the full benchmark, a sentence each.

    Args:
        found: Number of rows by section.
        full: Number of rows of the full benchmark, by section.
        unit: Word for sections, in the plural.
    """
    absent = [name for name in full if not found.get(name)]
    said = [f"{len(full) - len(absent)} of {len(full)} {unit}; missing: {', '.join(absent)}"] if absent else []
    return said + [f"{name} has {found[name]} of {n} rows" for name, n in full.items() if 0 < found.get(name, 0) < n]


def repeated(found: Mapping[str, int], full: Mapping[str, int]) -> list[str]:
    """Return a note on each section with more rows than the full benchmark has, some of which must then be duplicates."""
    return [
        f"{name} has {found[name]} rows and the full benchmark {n}: some occur twice" for name, n in full.items() if found.get(name, 0) > n
    ]


def every_pair(row: JudgedScore) -> list[tuple[str, bool]]:
    """Return the verdict on each pair of a better and a worse response, with a suffix that identifies it within the row."""
    gold, margins = row.quality, row.margins()
    pairs = np.argwhere((gold[:, None] > gold[None, :]) & np.isfinite(margins)).tolist()
    return [("" if len(pairs) == 1 else f":{i}-{j}", bool(margins[i, j] > 0)) for i, j in pairs]


def best_beats_all(row: JudgedScore) -> list[tuple[str, bool]]:
    """Return one verdict: whether the best response strictly beats every worse one; none if all are equally good."""
    wins = row.wins()
    return [("", bool(wins.all()))] if len(wins) else []
