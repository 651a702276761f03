"""PPE, Preference Proxy Evaluations (arXiv 2410.14872): human preference of Chatbot Arena, and correctness with best-of-K curves."""

from __future__ import annotations

from typing import Any

from prefrep.evaluation.judged import bestofn
from prefrep.evaluation.judged.benchmark import Judged, named_in, place_of
from prefrep.evaluation.judged.estimates import Estimate, Sample, average
from prefrep.evaluation.judged.results import assemble
from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Comparison, Record

HUMAN = "Human-Preference"
CORRECTNESS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
KNOWN = (HUMAN, *CORRECTNESS)


def subset(record: Record) -> str:
    """Return the data set of a row: human preferences for a pair, else the set that its file, folder or hub id is named after."""
    if isinstance(record, Comparison):
        return HUMAN
    return next((name for part in place_of(record) if (name := named_in(part, CORRECTNESS))), record.subset or "(no data set)")


def results(rows: list[JudgedScore], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the accuracy on pairs of each data set and, for correctness sets, the best-of-K curve and the area under the ROC curve."""
    sample = Sample(rows, bootstrap)
    credits = [bestofn.pair_credit(row) for row in rows]
    names = list(dict.fromkeys(row.subset for row in rows))
    accuracies = {
        name: sample.where([name]).mean(name, [credit for row, credit in zip(rows, credits, strict=True) if row.subset == name])
        for name in [*(known for known in KNOWN if known in names), *(name for name in names if name not in KNOWN)]
    }
    correctness = [name for name in accuracies if name != HUMAN]
    sections = {"human preference": accuracies.get(HUMAN), "correctness": average(accuracies[name] for name in correctness)}
    tables: dict[str, dict[str, Estimate | None]] = {}
    for name in correctness:
        part = sample.where([name])
        tables |= {f"{name}, {title}": points for title, points in bestofn.curves(part).items()}
        tables[f"{name}, ordering"] = {"area under the ROC curve": bestofn.area(part)}
    absent = [name for name in KNOWN if name not in names]
    partial = [f"{len(KNOWN) - len(absent)} of {len(KNOWN)} data sets; missing: {', '.join(absent)}"] if absent else []
    ties = sum(row.subset == HUMAN and len(set(row.gold)) == 1 for row in rows)
    notes = [f"{ties} human verdicts are ties, which are left out"] if ties else []
    alike = sum(row.subset != HUMAN and len(set(row.gold)) == 1 for row in rows)
    if alike:
        notes.append(f"{alike} prompts have only correct or only incorrect responses: they count in curves, not among pairs")
    return assemble(
        "ppe",
        "pairs of a better and a worse response, mean within prompts, then over prompts, data sets and the two sections "
        f"(PPE defines no overall score, and its own table samples pairs); {bestofn.rule(rows)}",
        sample, credits, average(sections.values()), sections, {"human preference": [HUMAN], "correctness": correctness}, partial=partial,
        notes=notes, tables=tables,
        tie_treatment=f"strict on pairs; in curves, {bestofn.SHARED.partition(';')[0]}",
    )  # fmt: skip


HUB = ("lmarena-ai/PPE-Human-Preference-V1:test", *(f"lmarena-ai/PPE-{name}-Best-of-K:train" for name in CORRECTNESS))
PPE = Judged("ppe", HUB, subset, results, bestofn.chooses_best, "all")
