"""Evaluation on comparisons: accuracy, confidence and calibration. Scores can come from any tool."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prefrep.data.pairs import without_scores
from prefrep.disk import replace_json, replace_lines
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.layout import rendered
from prefrep.evaluation.reliability import Scored, reliability
from prefrep.evaluation.rows import SCORES, PairScore
from prefrep.evaluation.scores import SIDECAR, add_counts, as_line, distinct, log_pairs, prompt_digest
from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.winrate import answer_length
from prefrep.judges import Comparer
from prefrep.metrics import calibration, intervals
from prefrep.metrics.verdicts import is_right
from prefrep.metrics.winrate import win_probabilities
from prefrep.records import Comparison, Messages, Record, preferred, text

MISTAKES = "mistakes.jsonl"
GROUPS = 5  # of accuracies by length and by margin

Floats = NDArray[np.float64]


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
        return cls(pair.id, pair.subset, pair.score, known, longer, p, prompt, objectives=pair.objectives)


# --------------------------------------------------------------------------------------------------------------------------- rows
def comparisons_of(records: Iterable[Record]) -> list[Comparison]:
    """Return comparisons as evaluations count them, each with a unique id.

    Every pair among K scored responses is one comparison, the better one as chosen, with the difference of their scores as margin; pairs
    with equal scores are left out, as in training. A row without an id is named by its number; an id that occurs again gets a suffix.

    Raises:
        RecordError: Several responses have no scores.
        DataError: There is nothing to compare.
    """
    found: list[tuple[str, Comparison]] = []
    for number, record in enumerate(records):
        name = record.id or str(number)
        for pair in _pairs(record):
            found.append((name if isinstance(record, Comparison) else f"{name}:{pair.id}", pair))
    if not found:
        raise DataError("no comparisons to evaluate; look at the data with prefrep inspect")
    names = distinct(name for name, _ in found)
    return [replace(pair, id=name) for name, (_, pair) in zip(names, found, strict=True)]


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
    known = {_content(pair) for pair in b}
    return sum(_content(pair) in known for pair in a)


def _content(pair: Comparison) -> bytes:
    sides = sorted((repr(pair.chosen), repr(pair.rejected)))
    return hashlib.sha256(repr((pair.prompt, sides)).encode()).digest()


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
    decided = [row for row in rows if row.probability != 0.5]
    notes = []
    known = _with_verdict(rows)
    if not known:
        raise DataError("no comparison has a verdict; look at what the judge wrote in verdicts.jsonl")
    silent = len(rows) - len(known)
    if silent:
        notes.append(f"{silent} comparisons have no verdict: accuracies count them as not right, calibration leaves them out")
    if len(decided) < len(rows):
        notes.append(
            f"{len(rows) - len(decided)} comparisons are ties in the data, which have no correct verdict: accuracies leave them out"
        )
    equal = sum(row.score == 0 for row in decided)
    if equal:
        notes.append(f"{equal} pairs have equal scores, which count as wrong")
    prompts = len(set(_prompts(rows)))
    if prompts == 1 < len(rows):
        notes.append(f"all {len(rows)} comparisons are on one prompt: intervals are for other comparisons on it, not for other prompts")
    elif prompts < len(rows):
        notes.append(
            f"{len(rows)} comparisons on {prompts} prompts: intervals of accuracies and the calibration error by chance assume independent "
            "comparisons and can be too narrow and too small; Brier score and log loss resample prompts"
        )
    right = np.array([is_right(row.score, row.probability) for row in decided], dtype=bool)
    subsets: dict[str, list[bool]] = {}
    for row, won in zip(decided, right, strict=True):
        subsets.setdefault(row.subset, []).append(bool(won))
    measured, said = reliability(_columns(known), None if held_out is None else _columns(_with_verdict(held_out)), boot)
    fitted_on = len(set(_prompts(held_out or ())))
    if held_out and fitted_on < len(held_out) and measured["temperature"] is not None:
        on, goes = (f"{fitted_on} prompts", "resamples prompts") if fitted_on > 1 else ("one prompt", "is for other comparisons on it")
        said.append(f"the temperature is fitted on {len(held_out)} comparisons on {on}, and its interval {goes}")
    return {
        "benchmark": "pairs",
        "tie_treatment": "strict: the preferred answer must score higher; equal scores count as wrong",
        "overall": share(right),
        "subsets": {name: share(np.array(won)) for name, won in subsets.items()},
        "agreement": {"length": _by_length(decided, right), "margin": _by_margin(decided, right)},
        **({"no_verdict": _silence(rows, decided, right)} if silent else {}),
        "calibration": measured,
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "notes": notes + said,
    }


def _with_verdict(rows: Sequence[PairRow]) -> list[PairRow]:
    return [row for row in rows if not math.isnan(row.score)]


def _silence(rows: Sequence[PairRow], decided: Sequence[PairRow], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of comparisons without a verdict, and the accuracy of the verdicts that there are."""
    silent = np.array([math.isnan(row.score) for row in rows])
    return {**share(silent), "accuracy_of_verdicts": share(right[[not math.isnan(row.score) for row in decided]])}


def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a share with its Wilson interval as `results.json` holds it; without trials, None in [0, 1]."""
    n, wins = len(hits), int(hits.sum())
    return {"score": wins / n if n else None, "n": n, "ci95": list(intervals.accuracy_interval(wins, n))}


def _grouped(values: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return accuracies in groups of about equal size: verdicts [n] by a value [n]."""
    groups = calibration.equal_mass(values, GROUPS)
    return [
        {"low": float(values[groups == g].min()), "high": float(values[groups == g].max()), **share(right[groups == g])}
        for g in range(int(groups.max(initial=-1)) + 1)
    ]


def _by_length(rows: Sequence[PairRow], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return accuracy by length difference, in characters, and how often model and data choose the longer answer."""
    longer = np.array([row.length_difference if row.probability > 0.5 else -row.length_difference for row in rows], dtype=np.float64)
    scores = np.array([row.score for row in rows])
    signed = np.sign(np.nan_to_num(scores) * [row.length_difference for row in rows])
    return {
        "preferred_longer": share(right[longer > 0]),
        "preferred_shorter": share(right[longer < 0]),
        "same_length": share(right[longer == 0]),
        "model_chooses_longer": share(signed[signed != 0] > 0),
        "data_choose_longer": share(longer[longer != 0] > 0),
        "bins": _grouped(longer, right),
    }


def _by_margin(rows: Sequence[PairRow], right: NDArray[np.bool_]) -> dict[str, Any] | None:
    known = np.array([row.margin is not None for row in rows], dtype=bool)
    if not known.any():
        return None
    margins = np.array([row.margin for row in rows if row.margin is not None])
    return {"known": int(known.sum()), "unknown": share(right[~known]), "bins": _grouped(margins, right[known])}


def _columns(rows: Sequence[PairRow]) -> Scored:
    prompts = _prompts(rows)
    if len(set(prompts)) == 1:  # only the comparisons on it can be resampled
        prompts = list(range(len(rows)))
    return Scored(np.array([row.score for row in rows]), np.array([row.probability for row in rows]), np.array(prompts, dtype=np.int64))


def _prompts(rows: Sequence[PairRow]) -> list[int]:
    """Return a group number for each row: equal for rows on one prompt, unique without a prompt."""
    numbers: dict[str | int, int] = {}
    return [numbers.setdefault(row.prompt or place, len(numbers)) for place, row in enumerate(rows)]


def mistakes(rows: Sequence[PairRow], comparisons: Sequence[Comparison], limit: int = 50) -> list[dict[str, Any]]:
    """Return the verdicts that are most confidently wrong, worst first, with their texts.

    Args:
        rows: Per-sample scores.
        comparisons: What was scored, in the order of the rows.
        limit: Maximum number of verdicts.
    """
    both = zip(rows, comparisons, strict=True)
    wrong = [(row, pair) for row, pair in both if not math.isnan(row.score) and is_right(row.score, row.probability) is False]
    wrong.sort(key=lambda each: -abs(each[0].score))
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
        for row, pair in wrong[:limit]
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
) -> tuple[list[PairRow], dict[str, Any]]:
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
