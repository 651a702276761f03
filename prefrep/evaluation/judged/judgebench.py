"""JudgeBench (arXiv 2410.12784): an objectively correct response against a subtly wrong one.

Published judges read each pair in both orders, and their verdicts must agree with the label more often than not. Scores here do not depend
on the order, so the rule becomes a strict win.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefrep.evaluation.judged.benchmark import Judged
from prefrep.evaluation.judged.estimates import Sample
from prefrep.evaluation.judged.results import assemble
from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Record

CATEGORIES = {"mmlu-pro": "Knowledge", "livebench-reasoning": "Reasoning", "livebench-math": "Math", "livecodebench": "Coding"}
GPT = {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42}
SPLITS = {"gpt": sum(GPT.values()), "claude": 270}


def category(source: str) -> str:
    """Return the category of a `source`; the source itself if it belongs to none."""
    return next((name for start, name in CATEGORIES.items() if source.startswith(start)), source)


def subset(record: Record) -> str:
    """Return the source of the question, such as mmlu-pro-law."""
    return record.subset


def results(rows: list[JudgedScore], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the accuracy of each category, and over all pairs."""
    sample = Sample(rows, bootstrap)
    credits = [float(row.wins().all()) if len(row.wins()) else None for row in rows]
    members: dict[str, list[str]] = {}
    for row in rows:
        members.setdefault(category(row.subset), []).append(row.subset)
    members = {name: sorted(set(members[name])) for name in [*CATEGORIES.values(), *members] if name in members}
    sections = {
        name: sample.where(subsets).mean(name, [credit for row, credit in zip(rows, credits, strict=True) if category(row.subset) == name])
        for name, subsets in members.items()
    }
    return assemble(
        "judgebench", "share of all pairs", sample, credits, sample.mean("overall", credits), sections, members, partial=_partial(rows),
        notes=_notes(members),
    )  # fmt: skip


def _partial(rows: list[JudgedScore]) -> list[str]:
    if len(rows) in (SPLITS["claude"], sum(SPLITS.values())) or Counter(category(row.subset) for row in rows) == Counter(GPT):
        return []
    return [f"{len(rows)} pairs; the splits have {', '.join(f'{n} ({name})' for name, n in SPLITS.items())}"]


def _notes(members: dict[str, list[str]]) -> list[str]:
    unknown = [name for name in members if name not in CATEGORIES.values()]
    return (
        [f"not a category of JudgeBench, but counted in overall: {', '.join(name or '(no source)' for name in unknown)}"] if unknown else []
    )


JUDGEBENCH = Judged("judgebench", ("ScalerLab/JudgeBench:gpt",), subset, results)
