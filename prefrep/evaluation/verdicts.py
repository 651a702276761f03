"""What judges said about the records of an evaluation, beside its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from prefrep.disk import replace_lines
from prefrep.judges import Comparer, GenerativeJudge
from prefrep.metrics.rewardbench import TIES
from prefrep.records import RankedResponses, Record, responses_of

VERDICTS = "verdicts.jsonl"


def asked(record: Record) -> RankedResponses:
    """Return a record as its answers, a comparison's chosen one first, without what tells which is better."""
    return RankedResponses(
        record.prompt, responses_of(record), subset=record.subset, id=record.id, source=record.source, tags=record.tags,
        criterion=record.criterion,
    )  # fmt: skip


def in_forms(judge: GenerativeJudge, records: Sequence[RankedResponses]) -> Iterator[tuple[GenerativeJudge, list[RankedResponses]]]:
    """Yield runs of records with the judge that is asked about them: who chooses the best of four rates each answer of a Ties prompt.

    The official generative runner of RewardBench 2 does so, since Ties prompts have many answers and several right ones.
    """
    for ties, group in groupby(records, key=lambda record: record.subset == TIES):
        yield (judge.at("rating") if ties and judge.manner.form == "best-of" else judge), list(group)


def keep_verdicts(judge: Comparer, records: Sequence[Record], out: Path) -> None:
    """Write every question to a judge that writes, and what it said, to `verdicts.jsonl`; nothing of other judges."""
    if not isinstance(judge, GenerativeJudge):
        return
    groups = in_forms(judge, [asked(record) for record in records])
    replace_lines(out / VERDICTS, (each.as_dict() for one, some in groups for each in one.judgments(some)))


def check(judge: Comparer) -> None:
    """Say how many questions had no verdict.

    Raises:
        VerdictError: Too many.
    """
    if isinstance(judge, GenerativeJudge):
        if sentence := judge.tally.sentence():
            print(f"{judge.name}: {sentence}; see {VERDICTS}")
        judge.check()
