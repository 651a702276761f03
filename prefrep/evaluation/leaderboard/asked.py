"""Battles that are asked for: a judge compares the answers of systems, two at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prefrep.disk import replace_lines
from prefrep.errors import DataError, UsageError
from prefrep.evaluation.audit.asked import MEASURES, Asked, of_judgments
from prefrep.evaluation.entrants import Entrant, enter, parse
from prefrep.evaluation.layout import model_name
from prefrep.evaluation.rows import PairScore
from prefrep.evaluation.scores import log_pairs
from prefrep.evaluation.verdicts import asked, check, keep_verdicts
from prefrep.functional.groups import probabilities
from prefrep.judges import Comparer, GenerativeJudge
from prefrep.metrics import intervals
from prefrep.records import Comparison, Messages, text

BATTLES = "battles.jsonl"


def systems(answers: Sequence[str], questions: str | None) -> list[Entrant]:
    """Return systems with their answers.

    Args:
        answers: An answer file or a run of post-training each, as PATH or NAME=PATH.
        questions: FastChat's questions, which its answers do not repeat.

    Raises:
        UsageError: There are fewer than two, or one is neither.
        PrefrepError: Answers cannot be read.
    """

    def generate(path: str, name: str) -> Path:
        raise UsageError(f"--answers {path}: neither an answer file nor a run; if it is a model, let prefrep eval generate answer first")

    return [enter(name, paths, questions or "", generate) for name, paths in parse(answers, "--answers").items()]


def pairs(found: Sequence[Entrant], limit: int | None, seed: int) -> tuple[list[Comparison], int]:
    """Return what a judge is asked about, and how many pairs of answers there are. Of several answers, the nth of each system meet.

    Args:
        found: The systems; a prompt that only some answered is asked about these.
        limit: Number of pairs at most, drawn so that each two systems meet equally often, as far as their prompts allow; None: all.
        seed: Seed of the draw, and of who stands first.

    Raises:
        DataError: No two systems answered one prompt.
    """
    prompts: dict[Messages, list[int]] = {}
    for place, each in enumerate(found):
        for prompt in each.answers:
            prompts.setdefault(prompt, []).append(place)
    texts = list(prompts)
    there = [
        (number, i, j, n)
        for number, prompt in enumerate(texts)
        for i, j in combinations(prompts[prompt], 2)
        for n in range(min(len(found[each].answers[prompt]) for each in (i, j)))
    ]
    if not there:
        raise DataError(f"{', '.join(each.name for each in found)} have no prompt in common; give answers to the same prompts")
    generator, asked_before = intervals.stream(seed, "asked"), Counter[tuple[int, int]]()
    turns, drawn = [], [there[at] for at in generator.permutation(len(there))]
    for _, i, j, _ in drawn:
        turns.append(asked_before[i, j])
        asked_before[i, j] += 1
    out = []
    for at in np.argsort(turns, kind="stable")[:limit]:
        number, i, j, n = drawn[at]
        a, b = (i, j) if generator.random() < 0.5 else (j, i)
        one, other = (found[each].answers[texts[number]][n] for each in (a, b))
        tags = {"system_0": found[a].name, "system_1": found[b].name}
        out.append(Comparison(texts[number], one, other, id=f"{number}/{a}/{b}/{n}", tags=tags))
    return out, len(there)


def notes(found: Sequence[Entrant], asked_for: int, there: int, rated: Sequence[str]) -> Iterator[str]:
    """Yield what a reader has to know about the questions, as sentences.

    Args:
        found: The systems.
        asked_for: Number of pairs of answers that the judge was asked about.
        there: Number of all pairs.
        rated: Names of the systems on the leaderboard.
    """
    if asked_for < there:
        yield f"the judge was asked about {asked_for:,} of {there:,} pairs of answers (--limit)"
    if lost := [each.name for each in found if each.name not in rated]:
        yield (
            f"left out: {', '.join(lost)}, of which no answer has a verdict beside that of another system: are prompts in common, and is "
            "--limit large enough?"
        )


def ask(judge: Comparer, asked_for: Sequence[Comparison], described: Mapping[str, Any], folder: Path, restart: bool) -> Path:
    """Ask a judge, and write its battles to `battles.jsonl`, which `eval leaderboard` reads like any file of battles.

    Verdicts come from `scores.jsonl` and the cache of a judge that writes, so that nothing is asked twice after an interruption. Each order
    of a judge that writes is a battle of its own. Other judges have log-odds that no order moves: the outcome is their probability.

    Args:
        judge: The judge.
        asked_for: What it is asked about.
        described: Its identity, kept beside the scores.
        folder: The output folder.
        restart: Discard the scores that the folder holds.

    Returns:
        The file.

    Raises:
        ConfigError: The folder holds scores of another judge, or of other answers.
        VerdictError: The judge gave no verdict at all.
    """
    rows = log_pairs(judge, asked_for, folder, PairScore, "leaderboard", described, restart)
    keep_verdicts(judge, asked_for, folder)
    name = model_name(described["path"])
    if isinstance(judge, GenerativeJudge) and judge.pairwise:
        found = of_judgments(asked_for, judge.judgments([asked(each) for each in asked_for]))
        lines = (_line(each if each.first > 0 else each.turned(), each.prompt, name) for each in found)
    else:
        lines = (_line(each, text(pair.prompt), name) for pair, each in zip(asked_for, _scored(asked_for, rows), strict=True))
    replace_lines(folder / BATTLES, lines)
    if all(math.isnan(row.score) for row in rows):  # nothing to rank: the judge's own sentence tells why
        check(judge)
    return folder / BATTLES


def _scored(asked_for: Sequence[Comparison], rows: Sequence[PairScore]) -> Iterator[Asked]:
    for pair, row in zip(asked_for, rows, strict=True):
        p = None if math.isnan(row.score) else float(probabilities(np.array(row.score)))
        features = {name: (value(pair.chosen), value(pair.rejected)) for name, value in MEASURES.items()}
        yield Asked("", "", pair.tags["system_0"], pair.tags["system_1"], p, 0, True, features=features)


def _line(each: Asked, prompt: str, judge: str) -> dict[str, Any]:
    """Return a battle as a row; measures are counts again, as style control compares them."""
    outcome = each.outcome
    words = {1.0: "model_a", 0.5: "tie", 0.0: "model_b"}
    counts = {
        f"{name}{side}": round(math.expm1(value))
        for name, both in each.features.items()
        for side, value in zip(("_a", "_b"), both, strict=True)
    }
    said = None if math.isnan(outcome) else words.get(outcome, outcome)
    return {"model_a": each.a, "model_b": each.b, "winner": said, "judge": judge, "prompt": prompt, "first_shown": each.first, **counts}
