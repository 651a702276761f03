"""Evaluation on comparisons: accuracy, confidence and calibration. Scores can come from any tool."""

from __future__ import annotations

import hashlib
import heapq
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from prefrep.data.pairs import without_scores
from prefrep.data.spool import Spool
from prefrep.disk import replace_json, replace_lines
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.agreement import Columns, agreement, distinct_values
from prefrep.evaluation.layout import rendered
from prefrep.evaluation.reliability import reliability
from prefrep.evaluation.rows import SCORES, PairScore
from prefrep.evaluation.scores import SIDECAR, Names, add_counts, as_line, distinct, log_pairs, prompt_digest
from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.winrate import answer_length
from prefrep.judges import Comparer
from prefrep.metrics.verdicts import is_right
from prefrep.metrics.winrate import win_probabilities
from prefrep.records import Comparison, Messages, Record, preferred, text

MISTAKES = "mistakes.jsonl"


@dataclass(frozen=True, slots=True)
class PairRow(PairScore):
    """One comparison: its score and the properties by which it is grouped.

    Args:
        id: Id of the comparison.
        subset: Subset of the comparison.
        score: Log-odds of chosen over rejected.
        margin: By how much chosen is better according to the data; None: unknown.
        length_difference: Characters of chosen minus those of rejected.
        probability: P(chosen wins) according to the data.
        prompt: Digest of its prompt: rows with the same one are not independent. Empty: unknown.
    """

    form: ClassVar[str] = '{"id", "subset", "score", "margin", "length_difference", "probability", "prompt"}'

    margin: float | None = None
    length_difference: int = 0
    probability: float = 1.0
    prompt: str = ""

    @classmethod
    def of(cls, pair: Comparison, score: float) -> Self:
        """Return the row of a comparison with a score."""
        longer = answer_length(pair.chosen) - answer_length(pair.rejected)
        return cls(pair.id, pair.subset, float(score), pair.margin or None, longer, pair.probability, prompt_digest(pair.prompt))

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of `scores.jsonl`. Raises ValueError or KeyError: it is not one."""
        pair, margin, p = PairScore.parse(row), row["margin"], float(row["probability"])
        if not 0 <= p <= 1:
            raise ValueError(f"probability is {p}")
        known, longer, prompt = None if margin is None else float(margin), int(row["length_difference"]), str(row.get("prompt", ""))
        if abs(longer) >= 1 << 31:
            raise ValueError(f"length_difference is {longer}")
        return cls(pair.id, pair.subset, pair.score, known, longer, p, prompt, objectives=pair.objectives)


# --------------------------------------------------------------------------------------------------------------------------- rows
def comparisons_of(records: Iterable[Record]) -> Spool[Comparison]:
    """Return comparisons as evaluations count them, each with a unique id, in a temporary file.

    Every pair among K scored responses is one comparison, the better one as chosen, with the difference of their scores as margin; pairs
    with equal scores are left out, as in training. A row without an id is named by its number; an id that occurs again gets a suffix.

    Raises:
        RecordError: Several responses have no scores.
        DataError: There is nothing to compare.
    """
    hashes = array("q")

    def named() -> Iterator[Comparison]:
        for number, record in enumerate(records):
            name = record.id or str(number)
            for pair in _pairs(record):
                own = replace(pair, id=name if isinstance(record, Comparison) else f"{name}:{pair.id}")
                hashes.append(hash(own.id))
                yield own

    found = Spool(named())
    if not found:
        raise DataError("no comparisons to evaluate; look at the data with prefrep inspect")
    if (names := Names(np.frombuffer(hashes, np.int64))).differ:
        return found
    pairs, others = tee(found)
    return Spool(replace(pair, id=name) for pair, name in zip(pairs, distinct((each.id for each in others), names), strict=True))


def _pairs(record: Record) -> Iterator[Comparison]:
    if isinstance(record, Comparison):
        yield record
        return
    scores = record.scores
    if scores is None:
        raise without_scores(record)
    for a, b in preferred(scores):
        yield Comparison(
            record.prompt, record.responses[a], record.responses[b], margin=scores[a] - scores[b], subset=record.subset, id=f"{a}-{b}",
            source=record.source, annotator=record.annotator, group=record.group, criterion=record.criterion, tags=record.tags,
        )  # fmt: skip


def pair_rows(comparisons: Iterable[Comparison], scores: Iterable[float]) -> list[PairRow]:
    """Return the rows of comparisons (from `comparisons_of`) and their scores, log-odds of chosen over rejected, in nats."""
    return [PairRow.of(comparison, score) for comparison, score in zip(comparisons, scores, strict=True)]


def write_rows(folder: Path, rows: Iterable[PairRow], identity: Mapping[str, Any]) -> Path:
    """Write `scores.jsonl` of complete scores, and beside it their identity (see `ScoreLog`); return its path."""
    replace_json(folder / SIDECAR, identity)
    replace_lines(folder / SCORES, map(as_line, rows))
    return folder / SCORES


def shared(a: Iterable[Comparison], b: Iterable[Comparison]) -> int:
    """Return how many comparisons of `a` are also in `b`: the same prompt and the same two responses, whichever is preferred."""
    ours, theirs = (np.fromiter(map(_content, pairs), np.uint64) for pairs in (a, b))
    return int(np.isin(ours, theirs).sum())


def _content(pair: Comparison) -> int:
    sides = sorted((repr(pair.chosen), repr(pair.rejected)))
    return int.from_bytes(hashlib.sha256(repr((pair.prompt, sides)).encode()).digest()[:8])


# ------------------------------------------------------------------------------------------------------------------------ results
def evaluate(rows: Sequence[PairRow], held_out: Sequence[PairRow] | None = None, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Return accuracy, agreement and calibration with 95 % intervals, from the rows alone.

    A verdict is correct if the answer that the data prefer scores strictly higher; a tie in the data (probability 1/2) has no correct
    verdict and counts for calibration only. Accuracies have Wilson intervals, which assume independent comparisons; intervals of Brier
    score, log loss and temperature resample prompts.

    Args:
        rows: Per-sample scores.
        held_out: Scores of other comparisons, on which the temperature is fitted; None: no temperature.
        bootstrap: Settings of the bootstrap for Brier score, log loss and the calibration error by chance.

    Returns:
        The content of `results.json`, without model, data and versions.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("no comparisons to evaluate")
    boot = bootstrap or Bootstrap()
    columns = columns_of(rows)
    notes, n = [], len(rows)
    silent, ties = int(columns.silent.sum()), n - int(columns.decided.sum())
    if silent == n:
        raise DataError("no comparison has a verdict; look at what the judge wrote in verdicts.jsonl")
    if silent:
        notes.append(f"{silent} comparisons have no verdict: accuracies count them as not right, calibration leaves them out")
    if ties:
        notes.append(f"{ties} comparisons are ties in the data, which have no correct verdict: accuracies leave them out")
    if equal := int((columns.decided & (columns.scores == 0)).sum()):
        notes.append(f"{equal} pairs have equal scores, which count as wrong")
    prompts = distinct_values(columns.prompts)
    if prompts == 1 < n:
        notes.append(f"all {n} comparisons are on one prompt: intervals are for other comparisons on it, not for other prompts")
    elif prompts < n:
        notes.append(
            f"{n} comparisons on {prompts} prompts: intervals of accuracies and the calibration error by chance assume independent "
            "comparisons and can be too narrow and too small; Brier score and log loss resample prompts"
        )
    scored = columns.scored()
    columns = replace(columns, prompts=np.empty(0, np.int64))  # of a million comparisons each column is large
    found = agreement(columns)
    del columns
    others = None if held_out is None else columns_of(held_out)
    measured, said = reliability(scored, None if others is None else others.scored(), boot)
    fitted_on = 0 if others is None else distinct_values(others.prompts)
    if held_out and fitted_on < len(held_out) and measured["temperature"] is not None:
        on, goes = (f"{fitted_on} prompts", "resamples prompts") if fitted_on > 1 else ("one prompt", "is for other comparisons on it")
        said.append(f"the temperature is fitted on {len(held_out)} comparisons on {on}, and its interval {goes}")
    return {
        "benchmark": "pairs",
        "tie_treatment": "strict: the preferred answer must score higher; equal scores count as wrong",
        **found,
        "calibration": measured,
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "notes": notes + said,
    }


def columns_of(rows: Sequence[PairRow]) -> Columns:
    """Return rows as columns, in one pass."""
    found = Columns.empty(len(rows))
    for place, row in zip(range(len(rows)), rows, strict=True):
        right = is_right(row.score, row.probability)
        found.scores[place], found.outcomes[place], found.right[place] = row.score, row.probability, bool(right)
        found.margins[place] = math.nan if row.margin is None else row.margin
        found.lengths[place] = row.length_difference
        found.prompts[place] = hash(row.prompt or place)  # unique without a prompt
        if right is not None:
            counts = found.subsets.setdefault(row.subset, [0, 0])
            counts[0] += right
            counts[1] += 1
    return found


def mistakes(rows: Sequence[PairRow], comparisons: Sequence[Comparison], limit: int = 50) -> list[dict[str, Any]]:
    """Return the verdicts that are most confidently wrong, worst first, with their texts.

    Args:
        rows: Per-sample scores.
        comparisons: What was scored, in the order of the rows.
        limit: Maximum number of verdicts.
    """
    assert len(rows) == len(comparisons)
    judged = ((place, row) for place, row in enumerate(rows) if not math.isnan(row.score))
    wrong = ((place, row) for place, row in judged if is_right(row.score, row.probability) is False)
    worst = heapq.nsmallest(limit, wrong, key=lambda each: -abs(each[1].score))
    return [
        {
            "id": row.id,
            "subset": row.subset,
            "score": row.score,
            "p_chosen": float(win_probabilities(row.score)),
            "probability": row.probability,
            "prompt": _shown(pair.prompt),
            "chosen": _shown(pair.chosen),
            "rejected": _shown(pair.rejected),
        }
        for row, pair in ((row, comparisons[place]) for place, row in worst)
    ]


def _shown(messages: Messages) -> str:
    return text(messages) if len(messages) < 2 else rendered(messages, ())


def check_apart(name: str, held_out: Sequence[Comparison], data: Sequence[Comparison]) -> list[str]:
    """Refuse a temperature that would be fitted on the data that it is measured on, and return a note where the two overlap.

    Raises:
        ConfigError: All held-out comparisons are in the data.
    """
    both = shared(held_out, data)
    if both == len(held_out):
        raise ConfigError(
            f"--calibrate-on {name}: all of its comparisons are in --data too, and a temperature must not be fitted on the data that it is "
            "measured on; name other comparisons"
        )
    return [f"{both} of the {len(held_out)} comparisons on which the temperature was fitted are also evaluated"] if both else []


def score(
    scorer: Comparer, comparisons: Sequence[Comparison], out: Path, model: Mapping[str, Any], restart: bool
) -> tuple[Sequence[PairRow], dict[str, Any]]:
    """Score comparisons into `out/scores.jsonl`, resuming an interrupted run.

    Args:
        scorer: The model.
        comparisons: What is compared.
        out: Output folder.
        model: Description of the model before it scores, kept beside the scores.
        restart: Discard the scores that the folder holds.

    Returns:
        Rows, and the description with the counts of encoding these comparisons.
    """
    before = dict(scorer.describe().get("encoded", {}))
    rows = log_pairs(scorer, comparisons, out, PairRow, "pairs", model, restart)
    described = scorer.describe()
    if "encoded" not in described:
        return rows, {**model, **described}
    counted = {what: n - before.get(what, 0) for what, n in described["encoded"].items()}
    return rows, add_counts(out, {**model, **described, "encoded": counted})
