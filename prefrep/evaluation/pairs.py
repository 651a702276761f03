"""Any file of comparisons: who wins, how sure the model is of it, and when it is right. Scores may come from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prefrep.disk import replace_json, replace_lines
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.layout import rendered
from prefrep.evaluation.reliability import Scored, reliability
from prefrep.evaluation.scores import SCORES, SIDECAR, PairScore, add_counts, distinct, log_pairs, prompt_digest
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
    """One comparison: its score and what tells it from others.

    Args:
        id: Of the comparison.
        subset: That it belongs to.
        score: Log-odds of chosen over rejected.
        margin: By how much chosen is better, by the data; None: they do not say.
        length_difference: Characters of chosen minus those of rejected.
        probability: P(chosen wins) by the data.
        prompt: A digest of its prompt: rows with the same one are not independent. Empty: there is no prompt, or none is stated.
    """

    form: ClassVar[str] = '{"id", "subset", "score", "margin", "length_difference", "probability", "prompt"}'

    margin: float | None = None
    length_difference: int = 0
    probability: float = 1.0
    prompt: str = ""

    @classmethod
    def of(cls, pair: Comparison, score: float) -> Self:
        """The row of a comparison and its score, wherever that came from."""
        longer = answer_length(pair.chosen) - answer_length(pair.rejected)
        return cls(pair.id, pair.subset, float(score), pair.margin or None, longer, pair.probability, prompt_digest(pair.prompt))

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """A row of `scores.jsonl`; raises `ValueError` or `KeyError` when it is not one."""
        pair, margin, p = PairScore.parse(row), row["margin"], float(row["probability"])
        if not 0 <= p <= 1:
            raise ValueError(f"probability is {p}")
        known, longer, prompt = None if margin is None else float(margin), int(row["length_difference"]), str(row.get("prompt", ""))
        return cls(pair.id, pair.subset, pair.score, known, longer, p, prompt)


# --------------------------------------------------------------------------------------------------------------------------- rows
def comparisons_of(records: Iterable[Record]) -> list[Comparison]:
    """Comparisons as evaluations count them, each with an id of its own.

    Of K responses with scores all pairs are taken, the better one as chosen, with the difference of their scores as margin; equal
    scores say nothing and are left out, as in training. A row without an id is named by its number; an id that occurs again
    gets a number.

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
        raise RecordError(record.source or "a record", "several responses without scores compare nothing", "add a 'scores' column")
    for a, b in preferred(scores):
        yield Comparison(
            record.prompt, record.responses[a], record.responses[b], margin=scores[a] - scores[b], subset=record.subset, id=f"{a}-{b}",
            source=record.source, annotator=record.annotator, group=record.group, criterion=record.criterion, tags=record.tags,
        )  # fmt: skip


def pair_rows(comparisons: Iterable[Comparison], scores: Iterable[float]) -> list[PairRow]:
    """Rows of comparisons (from `comparisons_of`) and their scores, one each: log-odds of chosen over rejected, in nats."""
    return [PairRow.of(comparison, score) for comparison, score in zip(comparisons, scores, strict=True)]


def write_rows(folder: Path, rows: Iterable[PairRow], identity: Mapping[str, Any]) -> Path:
    """Writes `scores.jsonl` of scores that are all there, and beside it what they belong to (see `ScoreLog`); returns its path."""
    replace_json(folder / SIDECAR, identity)
    replace_lines(folder / SCORES, map(asdict, rows))
    return folder / SCORES


def shared(a: Iterable[Comparison], b: Iterable[Comparison]) -> int:
    """How many comparisons of `a` are in `b` too: the same prompt and the same two responses, whichever is preferred."""
    known = {_content(pair) for pair in b}
    return sum(_content(pair) in known for pair in a)


def _content(pair: Comparison) -> bytes:
    sides = sorted((repr(pair.chosen), repr(pair.rejected)))
    return hashlib.sha256(repr((pair.prompt, sides)).encode()).digest()


# ------------------------------------------------------------------------------------------------------------------------ results
def evaluate(rows: Sequence[PairRow], held_out: Sequence[PairRow] | None = None, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Accuracy, agreement and calibration with 95 % intervals, from the rows alone.

    A verdict is right when the answer that the data prefer scores strictly higher; a tie of the data (probability 1/2) has no right
    verdict and counts for calibration only. Accuracies have Wilson intervals, which take comparisons for independent; intervals of Brier
    score, log loss and temperature go by prompts.

    Args:
        rows: Per-sample scores.
        held_out: Scores of other comparisons, which the temperature is fitted on; None: no temperature.
        bootstrap: How the intervals of Brier score and log loss, and the calibration error by chance, are drawn.

    Returns:
        What `results.json` holds, without model, data and versions.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("no comparisons to evaluate")
    boot = bootstrap or Bootstrap()
    decided = [row for row in rows if row.probability != 0.5]
    notes = []
    if len(decided) < len(rows):
        notes.append(
            f"{len(rows) - len(decided)} comparisons are ties by the data: no verdict on them is right, so accuracies leave them out"
        )
    equal = sum(row.score == 0 for row in decided)
    if equal:
        notes.append(f"{equal} pairs have equal scores, which count as lost")
    prompts = len(set(_prompts(rows)))
    if prompts == 1 < len(rows):
        notes.append(f"all {len(rows)} comparisons are on one prompt: intervals are of other comparisons on it, not of other prompts")
    elif prompts < len(rows):
        notes.append(
            f"{len(rows)} comparisons on {prompts} prompts: intervals of accuracies and the calibration error that chance gives take them "
            "for independent, and may be too narrow and too small; Brier score and log loss have prompts resampled"
        )
    right = np.array([is_right(row.score, row.probability) for row in decided], dtype=bool)
    subsets: dict[str, list[bool]] = {}
    for row, won in zip(decided, right, strict=True):
        subsets.setdefault(row.subset, []).append(bool(won))
    measured, said = reliability(_columns(rows), None if held_out is None else _columns(held_out), boot)
    fitted_on = len(set(_prompts(held_out or ())))
    if held_out and fitted_on < len(held_out) and measured["temperature"] is not None:
        on, goes = (f"{fitted_on} prompts", "goes by prompts") if fitted_on > 1 else ("one prompt", "is of other comparisons on it")
        said.append(f"the temperature is fitted on {len(held_out)} comparisons on {on}, and its interval {goes}")
    return {
        "benchmark": "pairs",
        "tie_treatment": "strict: the preferred answer must score higher, equal scores are lost",
        "overall": share(right),
        "subsets": {name: share(np.array(won)) for name, won in subsets.items()},
        "agreement": {"length": _by_length(decided, right), "margin": _by_margin(decided, right)},
        "calibration": measured,
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "notes": notes + said,
    }


def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """A share with its Wilson interval, as `results.json` holds it; without any trial it is None in [0, 1]."""
    n, wins = len(hits), int(hits.sum())
    return {"score": wins / n if n else None, "n": n, "ci95": list(intervals.accuracy_interval(wins, n))}


def _grouped(values: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracies in groups of like size: verdicts [n] by a value [n]."""
    groups = calibration.equal_mass(values, GROUPS)
    return [
        {"low": float(values[groups == g].min()), "high": float(values[groups == g].max()), **share(right[groups == g])}
        for g in range(int(groups.max(initial=-1)) + 1)
    ]


def _by_length(rows: Sequence[PairRow], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy by how much longer, in characters, the preferred answer is, and how often model and data choose the longer one."""
    longer = np.array([row.length_difference if row.probability > 0.5 else -row.length_difference for row in rows], dtype=np.float64)
    scores = np.array([row.score for row in rows])
    signed = np.sign(scores * [row.length_difference for row in rows])
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
    if len(set(prompts)) == 1:  # there is nothing else to resample than the comparisons on it
        prompts = list(range(len(rows)))
    return Scored(np.array([row.score for row in rows]), np.array([row.probability for row in rows]), np.array(prompts, dtype=np.int64))


def _prompts(rows: Sequence[PairRow]) -> list[int]:
    """For each row, a number that only those on the same prompt share; without a prompt, one of its own."""
    numbers: dict[str | int, int] = {}
    return [numbers.setdefault(row.prompt or place, len(numbers)) for place, row in enumerate(rows)]


def mistakes(rows: Sequence[PairRow], comparisons: Sequence[Comparison], limit: int = 50) -> list[dict[str, Any]]:
    """The verdicts that are most confidently wrong, the worst first, with their texts.

    Args:
        rows: Per-sample scores.
        comparisons: What was scored, in the order of the rows.
        limit: This many at most.
    """
    wrong = [(row, pair) for row, pair in zip(rows, comparisons, strict=True) if is_right(row.score, row.probability) is False]
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
            f"--calibrate-on {name}: all of its comparisons are in --data too, and a temperature fitted on what it is measured on shows "
            "nothing; name other comparisons"
        )
    return [f"{both} of the {len(held_out)} comparisons that the temperature was fitted on are evaluated too"] if both else []


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
        Rows, and the description with what was counted while these comparisons were encoded.
    """
    before = dict(scorer.describe()["encoded"])
    rows = log_pairs(scorer, comparisons, out, PairRow, "pairs", model, restart)
    described = scorer.describe()
    counted = {what: n - before.get(what, 0) for what, n in described["encoded"].items()}
    return rows, add_counts(out, {**model, **described, "encoded": counted})
