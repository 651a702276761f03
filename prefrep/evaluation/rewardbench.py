"""Scoring of RewardBench 1 and 2 with any preference model.

The official tools score each answer alone. The rule of RewardBench 1, whether the chosen answer wins, fits any model. RewardBench 2 needs
one score per answer; there is no official rule for models that only compare answers, and results name the scalarisation (`Scalarisation`)
that is used instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.rows import PairScore, RankedScore, RewardScore
from prefrep.evaluation.scores import ScoreLog, digest, log_pairs
from prefrep.evaluation.summary import Scalarisation
from prefrep.evaluation.verdicts import in_forms
from prefrep.judges import GenerativeJudge
from prefrep.metrics import intervals
from prefrep.records import Comparison, RankedResponses, Record
from prefrep.scoring.interface import PreferenceScorer

Kind = TypeVar("Kind", Comparison, RankedResponses)


@runtime_checkable
class OneOrderScorer(Protocol):
    """A model that reads both answers together and can give the log-odds of a single order."""

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield log-odds of chosen over rejected with chosen read first, not averaged over the two orders."""


def scalarise(table: NDArray[Any], rule: Scalarisation) -> NDArray[np.float64]:
    """Return one score per answer from log-odds of i over j, [K, K] -> [K]. None of these rules is official.

    `round-robin`: mean win probability over the other answers; `mean-logit`: mean log-odds over the other answers (without the
    answer itself, so K / (K - 1) times GPO's row mean); `wins`: answers beaten, ties counting half; `beat-all`: log-odds
    over the strongest opponent, positive if and only if it beats all others. A single answer scores 0.
    """
    logits = np.asarray(table, dtype=np.float64)
    others = ~np.eye(len(logits), dtype=bool)
    if len(logits) == 1:
        return np.zeros(1)
    if rule == "round-robin":
        from scipy.special import expit

        return np.asarray(np.where(others, expit(logits), 0.0).sum(-1) / (len(logits) - 1))
    if rule == "mean-logit":
        return np.asarray(np.where(others, logits, 0.0).sum(-1) / (len(logits) - 1))
    if rule == "wins":
        return np.asarray(np.where(others, (np.sign(logits) + 1) / 2, 0.0).sum(-1))
    if rule == "beat-all":
        return np.asarray(np.where(others, logits, np.inf).min(-1))
    raise ConfigError("a model that compares answers has no rewards; --scalarisation must be round-robin, mean-logit, wins or beat-all")


def score_pairs(
    scorer: PreferenceScorer, records: Iterable[Record], out: Path, model: Mapping[str, Any], restart: bool = False
) -> list[PairScore]:
    """Score RewardBench 1 pairs into `out/scores.jsonl`, resuming an interrupted run.

    Args:
        scorer: The model.
        records: The pairs.
        out: Output folder.
        model: Identity of the model, kept beside the scores.
        restart: Discard the scores that the folder holds.

    Raises:
        DataError: There are no records, one is not a pair, or a score is not finite.
        ConfigError: The folder holds scores of another model or other data.
    """
    pairs = [_named(record, number, Comparison, "rewardbench2") for number, record in enumerate(_some(records))]
    if scorer.pairwise or not hasattr(scorer, "compare_rewards"):
        return list(log_pairs(scorer, pairs, out, PairScore, "rewardbench", model, restart))
    return list(log_pairs(scorer, pairs, out, RewardScore, "rewardbench", model, restart))


def score_ranked(
    scorer: PreferenceScorer,
    records: Iterable[Record],
    out: Path,
    model: Mapping[str, Any],
    rule: Scalarisation,
    restart: bool = False,
) -> list[RankedScore]:
    """Score RewardBench 2 prompts into `out/scores.jsonl`, resuming an interrupted run.

    Args:
        scorer: The model.
        records: Prompts with the correct answers first (score 1), then the others (score 0).
        out: Output folder.
        model: Identity of the model, kept beside the scores.
        rule: `rewards`: the official rule; others: how log-odds become one score per answer.
        restart: Discard the scores that the folder holds.

    Raises:
        DataError: There are no records, one does not begin with a correct answer, or a score is not finite.
        ConfigError: The folder holds scores of another model or other data, or the rule does not fit the model.
    """
    if rule == "rewards" and scorer.pairwise:
        scalarise(np.zeros((2, 2)), rule)  # raises
    prompts = [_named(record, number, RankedResponses, "rewardbench") for number, record in enumerate(_some(records))]
    correct = [num_correct(prompt) for prompt in prompts]
    identity = {"benchmark": "rewardbench2", "model": dict(model), "data": digest(prompts), "scalarisation": rule}
    with ScoreLog(out, RankedScore, identity, [(prompt.id, prompt.subset) for prompt in prompts], restart) as log:
        start = len(log.rows)
        rest = prompts[start:]
        if rest:
            found: Iterator[NDArray[Any]] = (
                _rewards(scorer, rest)
                if rule == "rewards"
                else (scalarise(table, rule) for table in scorer.tables(rest, progress="rewardbench2"))
            )
            for prompt, n, scores in zip(rest, correct[start:], found, strict=True):
                log.append(RankedScore(prompt.id, prompt.subset, n, tuple(float(score) for score in scores)))
        return list(log.rows)


def _rewards(scorer: PreferenceScorer, prompts: Sequence[RankedResponses]) -> Iterator[NDArray[Any]]:
    if isinstance(scorer, GenerativeJudge):
        for judge, some in in_forms(scorer, prompts):
            yield from judge.rewards(some, progress="rewardbench2")
    else:
        yield from scorer.rewards(prompts, progress="rewardbench2")


def num_correct(prompt: RankedResponses) -> int:
    """Return the number of correct answers, the leading ones with score 1.

    Raises:
        DataError: The scores are not ones followed by zeros.
    """
    scores = prompt.scores or ()
    n = sum(score == 1.0 for score in scores)
    if n == 0 or scores != (1.0,) * n + (0.0,) * (len(scores) - n):
        raise DataError(f"{prompt.source or prompt.id}: not a RewardBench 2 row (correct answers first, then the others)")
    return n


def _some(records: Iterable[Record]) -> list[Record]:
    found = list(records)
    if not found:
        raise DataError("no rows to evaluate; look at the data with prefrep inspect")
    return found


def _named(record: Record, number: int, kind: type[Kind], other: str) -> Kind:
    if not isinstance(record, kind):
        where = record.source or f"row {number + 1}"
        raise DataError(f"{where}: found {type(record).__name__}, need {kind.__name__}; these data may be meant for `prefrep eval {other}`")
    return record if record.id else replace(record, id=str(number))


# ---------------------------------------------------------------------------------------------------------------- both orders
def pairs_of(records: Iterable[Record]) -> list[Comparison]:
    """Return pairs as they are; of K answers, the first against each incorrect one."""
    found: list[Comparison] = []
    for record in records:
        if isinstance(record, Comparison):
            found.append(record)
        else:
            found += [Comparison(record.prompt, record.responses[0], wrong) for wrong in record.responses[num_correct(record) :]]
    return found


def swap_consistency(scorer: PreferenceScorer, records: Iterable[Record]) -> dict[str, Any]:
    """Compare each pair in both orders: a consistent verdict flips when chosen and rejected are swapped.

    Models that average over both orders, or score answers alone, are consistent by construction, and the result states this. If the
    model offers single orders (`OneOrderScorer`), those are compared, and the accuracy of each order shows its position bias.

    Args:
        scorer: The model.
        records: Pairs, or prompts of RewardBench 2.
    """
    pairs = pairs_of(records)
    if not pairs:
        raise DataError("--also-swap: there is no pair of a correct and an incorrect answer to compare")
    single = isinstance(scorer, OneOrderScorer)
    compare = scorer.compare_one_order if isinstance(scorer, OneOrderScorer) else scorer.compare
    swapped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen, probability=1 - pair.probability) for pair in pairs]
    first = np.fromiter(compare(pairs, progress="chosen first"), np.float64, len(pairs))
    second = np.fromiter(compare(swapped, progress="rejected first"), np.float64, len(pairs))
    flips = np.sign(first) == -np.sign(second)
    return {
        "orders": "single" if single else "averaged or position-free: consistent by construction",
        "n": len(pairs),
        "consistent": float(flips.mean()),
        "ci95": list(intervals.accuracy_interval(int(flips.sum()), len(pairs))),
        "accuracy_chosen_first": float((first > 0).mean()),
        "accuracy_rejected_first": float((second < 0).mean()),
        "mean_abs_sum_of_log_odds": float(np.abs(first + second).mean()),
        "max_abs_sum_of_log_odds": float(np.abs(first + second).max()),
    }
