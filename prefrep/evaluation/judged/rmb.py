"""RMB (arXiv 2410.09893): 49 scenarios of helpfulness and harmlessness, as pairs and as the best response among several."""

from __future__ import annotations

import re
from typing import Any

from prefrep.evaluation.judged.benchmark import Judged
from prefrep.evaluation.judged.estimates import Estimate, Sample, average
from prefrep.evaluation.judged.results import assemble
from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Comparison, Record

SCENARIOS = {"Helpfulness": 37, "Harmlessness": 12}
PAIRS, BEST = "pairs", "best of N"
SECTIONS = {f"{goal}, {kind}": (goal, kind) for goal in SCENARIOS for kind in (PAIRS, BEST)}


def subset(record: Record) -> str:
    """Return kind and category, such as `pairs/Helpfulness/Brainstorming/Idea Development`, from the file's path or the row's category."""
    kind = PAIRS if isinstance(record, Comparison) else BEST
    path = re.sub(r"(\.jsonl?)(\.gz)?(:\d+)?$", "", record.source.replace("\\", "/"))
    for text in (path, record.subset):
        if (found := re.search(rf"(^|/)((?:{'|'.join(SCENARIOS)})(/.*)?)$", text)) is not None:
            return f"{kind}/{found[2]}"
        if (found := re.search(r"(?:^|/)(multi)$", text)) is not None:  # rows with several kinds of harm
            return f"{kind}/Harmlessness/{found[1]}"
    return f"{kind}/{record.subset or '(no category)'}"


def section(name: str) -> str:
    """Return the section of a subset, such as `Helpfulness, pairs`; the subset itself if it has no goal."""
    kind, _, category = name.partition("/")
    return next((title for title, (goal, of) in SECTIONS.items() if kind == of and category.split("/")[0] == goal), name)


def results(rows: list[JudgedScore], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the mean over rows of each goal and kind, the mean of these, and means over scenarios."""
    sample = Sample(rows, bootstrap)
    credits = [float(row.wins().all()) if len(row.wins()) else None for row in rows]
    members: dict[str, list[str]] = {}
    for row in rows:
        members.setdefault(section(row.subset), []).append(row.subset)
    members = {name: sorted(set(members[name])) for name in [*SECTIONS, *members] if name in members}

    def mean(name: str, subsets: list[str]) -> Estimate | None:
        return sample.where(subsets).mean(name, [credit for row, credit in zip(rows, credits, strict=True) if row.subset in subsets])

    sections = {name: mean(name, subsets) for name, subsets in members.items()}
    over_scenarios = {name: average(mean(each, [each]) for each in subsets) for name, subsets in members.items()}
    over_scenarios["overall"] = average(over_scenarios.values())
    partial = []
    for name, (goal, _) in SECTIONS.items():
        found = len(members.get(name, ()))
        if found < SCENARIOS[goal]:
            partial.append(f"{name} has {found} of {SCENARIOS[goal]} scenarios")
    notes = [f"overall is the mean of {'; '.join(members)} only"] if set(members) != set(SECTIONS) else []
    return assemble(
        "rmb", "mean over rows of each goal, for pairs and best of N; overall is the mean of the four", sample, credits,
        average(sections.values()), sections, members, partial=partial, notes=notes, tables={"mean over scenarios": over_scenarios},
        tie_treatment="strict: the best response must score higher than every other; equal scores count as wrong",
    )  # fmt: skip


RMB = Judged("rmb", (), subset, results)
