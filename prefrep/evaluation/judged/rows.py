"""Rows of benchmarks with responses of known quality: the scores of a model for each prompt, as saved and evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError
from prefrep.evaluation.rewardbench import OneOrderScorer
from prefrep.evaluation.rows import finite, finite_or_none
from prefrep.evaluation.scores import ScoreLog, digest, prompt_digest
from prefrep.metrics import best_of
from prefrep.records import Comparison, RankedResponses, Record, responses_of
from prefrep.scoring.interface import WINDOW, PreferenceScorer

Floats = NDArray[np.float64]
Asked = Literal["across", "all"]
LogOdds = tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class JudgedScore:
    """The scores or log-odds of a model for the responses to one prompt.

    Exactly one of `scores` and `log_odds` is set.

    Args:
        id: Id of the prompt or pair.
        subset: Subset of the prompt.
        gold: Quality of each response, [K]: 1 for a correct one and 0 for an incorrect one, or grades.
        scores: Score of each response, [K], of a model that scores responses alone.
        log_odds: (i, j, log-odds of response i over response j) for each pair that a comparing model scored.
        prompt: Digest of the prompt: rows with the same one are not independent. Empty: unknown.
    """

    form: ClassVar[str] = '{"id", "subset", "gold": [K], "scores": [K] or "log_odds": [[i, j, x], ...]}'

    id: str
    subset: str
    gold: tuple[float, ...]
    scores: tuple[float, ...] | None = None
    log_odds: LogOdds | None = None
    prompt: str = ""

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of `scores.jsonl`, a pair {"id", "subset", "score"}, or RM-Bench's own {"score_chosen": [..], "score_rejected": [..]}.

        Raises:
            KeyError: A field is missing.
            ValueError: A field has a wrong value.
        """
        if "score_chosen" in row and "score_rejected" in row:
            sides = [[finite(value) for value in row[name]] for name in ("score_chosen", "score_rejected")]
            subset = row["domain"] if row.get("domain") is not None else row["subset"]
            gold = (1.0,) * len(sides[0]) + (0.0,) * len(sides[1])
            return cls(str(row["id"]), str(subset), gold, tuple(sides[0] + sides[1]))
        prompt = str(row.get("prompt") or "")
        if "score" in row:
            return cls(str(row["id"]), str(row["subset"]), (1.0, 0.0), None, ((0, 1, finite_or_none(row["score"])),), prompt)
        gold = tuple(finite(value) for value in row["gold"])
        if row.get("log_odds") is None:
            scores = tuple(finite_or_none(value) for value in row["scores"])
            if len(scores) != len(gold):
                raise ValueError(f"{len(scores)} scores for {len(gold)} responses")
            return cls(str(row["id"]), str(row["subset"]), gold, scores, None, prompt)
        triples = tuple((int(i), int(j), finite_or_none(x)) for i, j, x in row["log_odds"])
        if not all(0 <= i < len(gold) and 0 <= j < len(gold) for i, j, _ in triples):
            raise ValueError(f"log_odds name a response that is not among {len(gold)}")
        return cls(str(row["id"]), str(row["subset"]), gold, None, triples, prompt)

    @property
    def quality(self) -> Floats:
        """Quality of each response, [K]."""
        return np.array(self.gold, dtype=np.float64)

    def margins(self) -> Floats:
        """Return log-odds or score differences of i over j, [K, K]; NaN for pairs that were not compared.

        A pair without a verdict was compared and not won: it is 0, and `unanswered` tells it from a tie.
        """
        if self.scores is not None:
            values = np.array(self.scores, dtype=np.float64)
            return np.nan_to_num(values[:, None] - values[None, :])
        found = np.full((len(self.gold), len(self.gold)), np.nan)
        np.fill_diagonal(found, 0.0)
        for i, j, value in self.log_odds or ():
            found[i, j], found[j, i] = (0.0, 0.0) if np.isnan(value) else (value, -value)
        return found

    @property
    def unanswered(self) -> int:
        """Number of pairs of a better and a worse response without a verdict."""
        gold = self.quality
        if self.scores is not None:
            silent = np.isnan(np.array(self.scores, dtype=np.float64))
            return int(((gold[:, None] > gold[None, :]) & (silent[:, None] | silent[None, :])).sum())
        return sum(bool(np.isnan(value)) and gold[i] != gold[j] for i, j, value in self.log_odds or ())

    def strengths(self, first: int | None = None) -> Floats:
        """Return one score per response among the first k, [k]: the model's own, or the mean log-odds over the others of them.

        Args:
            first: k; None: all K.

        Raises:
            DataError: A comparing model did not score all pairs.
        """
        if self.scores is not None:
            values = np.array(self.scores[:first], dtype=np.float64)
            return np.where(np.isnan(values), -np.inf, values)  # no verdict: chosen last
        margins = self.margins()[:first, :first]
        if not np.isfinite(margins).all():
            raise DataError(
                f"row {self.id!r} ({self.subset}): log_odds lack pairs that the choice among all responses needs; score it again"
            )
        return best_of.strengths(margins)

    def wins(self) -> Floats:
        """Return the verdicts on pairs of a better and a worse response, see `prefrep.metrics.best_of.pair_wins`."""
        return best_of.pair_wins(self.quality, self.margins())


class JudgedLog(ScoreLog[JudgedScore]):
    """`scores.jsonl` of a benchmark whose rows are `JudgedScore`."""

    @staticmethod
    def _numbers(row: JudgedScore) -> Sequence[float]:
        return row.scores if row.scores is not None else [value for _, _, value in row.log_odds or ()]


def prompts_of(records: Iterable[Record], subset: Callable[[Record], str]) -> list[RankedResponses]:
    """Return records as prompts with K responses and their quality as scores; of a comparison, chosen comes first.

    Args:
        records: Comparisons, whose qualities are P(chosen wins) and 1 minus it, or responses with scores.
        subset: The subset that a record belongs to.

    Raises:
        DataError: There are no records, or one has no scores.
    """
    found = []
    for number, record in enumerate(records):
        gold = (record.probability, 1 - record.probability) if isinstance(record, Comparison) else record.scores
        if gold is None:
            raise DataError(f"{record.source or f'row {number + 1}'}: responses without scores; the benchmark needs their quality")
        found.append(
            RankedResponses(
                record.prompt, responses_of(record), gold, subset=subset(record), id=record.id or str(number), source=record.source
            )
        )
    if not found:
        raise DataError("no rows to evaluate; look at the data with prefrep inspect")
    return found


def score_judged(
    scorer: PreferenceScorer,
    prompts: Sequence[RankedResponses],
    out: Path,
    model: Mapping[str, Any],
    benchmark: str,
    asked: Asked,
    restart: bool = False,
) -> list[JudgedScore]:
    """Score prompts into `out/scores.jsonl`, resuming an interrupted run.

    Args:
        scorer: The model, which scores responses alone or compares pairs.
        prompts: From `prompts_of`.
        out: Output folder.
        model: Identity of the model, kept beside the scores.
        benchmark: Name of the benchmark.
        asked: Pairs that a comparing model scores: those of unequal quality (`across`), or `all`.
        restart: Discard the scores that the folder holds.

    Raises:
        DataError: A score is not finite.
        ConfigError: The folder holds scores of another model or other data.
    """
    identity = {"benchmark": benchmark, "model": dict(model), "data": digest(prompts)}
    with JudgedLog(out, JudgedScore, identity, [(prompt.id, prompt.subset) for prompt in prompts], restart) as log:
        done = len(log.rows)
        found = _answers(scorer, prompts, done, benchmark, asked) if done < len(prompts) else ()
        for prompt, (scores, log_odds) in zip(prompts[done:], found, strict=True):
            log.append(JudgedScore(prompt.id, prompt.subset, prompt.scores or (), scores, log_odds, prompt_digest(prompt.prompt)))
        return list(log.rows)


def _answers(
    scorer: PreferenceScorer, prompts: Sequence[RankedResponses], done: int, label: str, asked: Asked
) -> Iterator[tuple[tuple[float, ...] | None, LogOdds | None]]:
    """Yield what a model says of the prompts after so many that are done."""
    rest = prompts[done:]
    if not scorer.pairwise:
        for rewards in scorer.rewards(rest, progress=label):
            yield tuple(float(value) for value in rewards), None
    elif isinstance(scorer, OneOrderScorer):  # it reads two responses at a time, so each pair costs two sequences
        # What is read together decides on last bits: it begins again with the window of pairs in which the first of the rest lies.
        before = [pair for prompt in prompts[:done] for pair in _comparisons(prompt, asked)]
        again = len(before) % WINDOW
        pairs = chain(before[len(before) - again :], (pair for prompt in rest for pair in _comparisons(prompt, asked)))
        answers = islice(scorer.compare(pairs, progress=label), again, None)
        for prompt in rest:
            yield None, tuple((i, j, next(answers)) for i, j in pairs_asked(prompt, asked))
    else:
        for prompt, table in zip(rest, scorer.tables(rest, progress=label), strict=True):
            yield None, tuple((i, j, float(table[i, j])) for i, j in pairs_asked(prompt, asked))


def pairs_asked(prompt: RankedResponses, asked: Asked) -> list[tuple[int, int]]:
    """Return the pairs that a comparing model scores, the better response first; a pair of equal quality in the order of the row."""
    gold = prompt.scores or ()
    pairs = [(i, j) if gold[i] >= gold[j] else (j, i) for i, j in combinations(range(len(gold)), 2)]
    return [(i, j) for i, j in pairs if asked == "all" or gold[i] > gold[j]]


def _comparisons(prompt: RankedResponses, asked: Asked) -> Iterator[Comparison]:
    for i, j in pairs_asked(prompt, asked):
        yield Comparison(prompt.prompt, prompt.responses[i], prompt.responses[j], source=prompt.source)


def swap_pairs(prompts: Iterable[RankedResponses]) -> list[Comparison]:
    """Return comparisons for `--also-swap`: the first of the best responses to a prompt against each worse one."""
    found: list[Comparison] = []
    for prompt in prompts:
        gold = prompt.scores or ()
        best = gold.index(max(gold))
        worse = [response for response, each in zip(prompt.responses, gold, strict=True) if each < gold[best]]
        found += [Comparison(prompt.prompt, prompt.responses[best], response) for response in worse]
    return found


def worst_pairs(rows: Sequence[JudgedScore], prompts: Sequence[RankedResponses]) -> tuple[list[Comparison], list[float]]:
    """Return the verdict of each row that is most confidently wrong, for rows that have a wrong one.

    Args:
        rows: Rows.
        prompts: What was scored, in the same order.

    Returns:
        Comparisons of the better with the worse response, and their log-odds.
    """
    pairs, scores = [], []
    for row, prompt in zip(rows, prompts, strict=True):
        gold, margins = row.quality, row.margins()
        better = (gold[:, None] > gold[None, :]) & np.isfinite(margins)
        if better.any():
            i, j = (int(at) for at in np.unravel_index(int(np.argmin(np.where(better, margins, np.inf))), margins.shape))
            if margins[i, j] <= 0:
                pairs.append(Comparison(prompt.prompt, prompt.responses[i], prompt.responses[j], subset=row.subset, id=row.id))
                scores.append(float(margins[i, j]))
    return pairs, scores
