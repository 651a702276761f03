"""Win rates of one model against another by a judge, raw and length-controlled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrep.data.sources import rows
from prefrep.errors import DataError, RecordError
from prefrep.evaluation.generation import read_questions
from prefrep.evaluation.summary import Bootstrap, entry
from prefrep.metrics import intervals
from prefrep.metrics.winrate import (
    bootstrap_length_controlled,
    is_extreme_change,
    length_controlled_minimal,
    length_feature,
    win_probabilities,
)
from prefrep.records import Comparison, Message, Messages


# ------------------------------------------------------------------------------------------------------------------------ answers
@dataclass(frozen=True)
class Answers:
    """The answers of one model.

    Args:
        name: The model's name.
        found: (prompt, answer) by key: the instruction, or the number of an MT-Bench question. Of two turns, the first question is the
            prompt, and the answer is the rest, including the second question.
    """

    name: str
    found: Mapping[str, tuple[Messages, Messages]]


def is_answer_file(path: str) -> bool:
    """Return whether a path is a file of answers, by its suffix; anything else is a language model."""
    return path.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz"))


def read_side(path: str, questions: str | None) -> Answers:
    """Read an answer file.

    Args:
        path: The file.
        questions: File of MT-Bench's questions, which FastChat's answers need.

    Raises:
        DataError: A file cannot be read.
        RecordError: A row is wrong, see `read_answers`.
    """
    first, _ = next(rows(path))
    return read_answers(path, read_questions(questions) if questions and "choices" in first else None)


def read_answers(path: str, questions: Sequence[Mapping[str, Any]] | None = None) -> Answers:
    """Read an AlpacaEval `model_outputs.json`, rows with instruction (or prompt) and output, or FastChat's answers to MT-Bench.

    Args:
        path: The file.
        questions: MT-Bench's questions, which its answer files do not repeat.

    Raises:
        DataError: The file cannot be read.
        RecordError: A row is neither, or answers a prompt that another row answers.
    """
    found: dict[str, tuple[Messages, Messages]] = {}
    names: Counter[str] = Counter()
    turns = {int(question["question_id"]): question["turns"] for question in questions or ()}
    for row, place in rows(path):
        if "choices" in row:
            key, pair = _talk(row, place, turns)
        else:
            asked, output = row.get("instruction", row.get("prompt")), row.get("output")
            if not isinstance(asked, str) or not isinstance(output, str):
                raise RecordError(
                    place, f"no answer (found: {', '.join(row)})", "each row needs instruction and output, or FastChat's choices"
                )
            key, pair = asked, ((Message("user", asked),), (Message("assistant", output),))
        if key in found:
            raise RecordError(place, f"a second answer to {key!r:.60}", "keep one answer per prompt")
        found[key] = pair
        names[str(row.get("generator") or row.get("model_id") or "")] += 1
    name = names.most_common(1)[0][0]
    return Answers(name or Path(path).stem, found)


def _talk(row: Mapping[str, Any], place: str, turns: Mapping[int, Sequence[str]]) -> tuple[str, tuple[Messages, Messages]]:
    """Return a row of FastChat's answers as a conversation, with the first of several choices, which FastChat's judge reads."""
    try:
        number, said = row["question_id"], [str(turn) for turn in row["choices"][0]["turns"]]
    except (KeyError, IndexError, TypeError) as error:
        raise RecordError(place, "not an answer of MT-Bench", "it needs question_id and choices[0].turns") from error
    if not turns:
        raise RecordError(place, "answers to MT-Bench do not repeat the questions", "name FastChat's question.jsonl with --data")
    asked = turns.get(number)
    if asked is None or len(asked) < len(said) or not said:
        raise RecordError(
            place, f"question {number} with {len(said)} turns is not in --data", "name the file with the questions that were answered"
        )
    talk = [Message(role, text) for pair in zip(asked, said, strict=False) for role, text in zip(("user", "assistant"), pair, strict=True)]
    return str(number), (tuple(talk[:1]), tuple(talk[1:]))


def paired(a: Answers, b: Answers) -> tuple[list[Comparison], list[str]]:
    """Return comparisons of A's answers (`chosen`) with B's (`rejected`), in A's order, and notes on unmatched answers.

    Raises:
        DataError: No prompt was answered by both.
    """
    both = [key for key in a.found if key in b.found]
    if not both:
        raise DataError(f"{a.name} and {b.name} have no prompt in common; give answers to the same prompts")
    notes = [
        f"{len(one.found) - len(both)} of {len(one.found)} answers of {one.name} are unmatched and were left out"
        for one in (a, b)
        if len(one.found) > len(both)
    ]
    pairs = []
    for number, key in enumerate(both):
        prompt, ours = a.found[key]
        pairs.append(Comparison(prompt, ours, b.found[key][1], id=str(number)))
    return pairs, notes


# ------------------------------------------------------------------------------------------------------------------------ results
def answer_length(answer: Messages) -> int:
    """Return the characters of the assistant's messages, as AlpacaEval counts them."""
    return sum(len(message.content) for message in answer if message.role == "assistant")


def results(scores: Sequence[float], pairs: Sequence[Comparison], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return win rates of A against B, with 95 % intervals over prompts.

    Args:
        scores: Log-odds of A's answer over B's, per pair.
        pairs: The comparisons.
        bootstrap: Settings of the bootstrap.

    Returns:
        `win_rate`: mean P(A wins), sigmoid of the log-odds. `strict_wins`: share of pairs with log-odds above 0; a tie is no win.
        `length_controlled_minimal`: see `prefrep.metrics.winrate`; a note says where it is beyond belief. Also counts and mean lengths.
    """
    asked = len(pairs)
    pairs = [pair for pair, score in zip(pairs, scores, strict=True) if not math.isnan(score)]
    scores = [score for score in scores if not math.isnan(score)]
    if not pairs:
        raise DataError("no pair has a verdict; look at what the judge wrote in the cache, or ask another one")
    p = win_probabilities(scores)
    lengths = [[answer_length(pair.chosen) for pair in pairs], [answer_length(pair.rejected) for pair in pairs]]
    feature = length_feature(lengths[0], lengths[1])
    n, minimal = len(p), length_controlled_minimal(p, feature)
    wins, losses = sum(score > 0 for score in scores), sum(score < 0 for score in scores)

    def draws(name: str) -> Any:
        return intervals.stream(bootstrap.seed, name)

    controlled = bootstrap_length_controlled(p, feature, bootstrap.draws, draws("length_controlled_minimal"))
    notes = [f"{asked - n} of {asked} pairs have no verdict and are left out"] if n < asked else []
    if not feature.any() and lengths[0] != lengths[1]:
        notes.append("the lengths differ by the same amount in all pairs, so length cannot be controlled for")
    if is_extreme_change(raw := float(p.mean()), minimal):
        notes.append(
            f"the length-controlled win rate is very different from the raw one ({minimal:.3f} against {raw:.3f}), which AlpacaEval takes "
            "as a sign that its regression failed: answers of equal length are too rare to say who wins them"
        )
    return {
        "win_rate": entry(raw, n, intervals.bootstrap_means(p, bootstrap.draws, draws("win_rate"))),
        "strict_wins": {"score": wins / n, "n": n, "ci95": list(intervals.accuracy_interval(wins, n))},
        "length_controlled_minimal": entry(minimal, n, controlled),
        "wins": wins,
        "ties": n - wins - losses,
        "losses": losses,
        "no_verdict": asked - n,
        "mean_length": {"a": sum(lengths[0]) / n, "b": sum(lengths[1]) / n},
        "bootstrap": {"draws": bootstrap.draws, "seed": bootstrap.seed},
        "notes": notes,
    }


def sample_rows(scores: Sequence[float], pairs: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return per-sample rows: prompt, both answers, lengths, log-odds and P(A wins)."""
    return [
        {
            "id": pair.id,
            "prompt": [message.content for message in pair.prompt],
            "a": [message.content for message in pair.chosen],
            "b": [message.content for message in pair.rejected],
            "length_a": answer_length(pair.chosen),
            "length_b": answer_length(pair.rejected),
            "log_odds": None if math.isnan(score) else score,
            "p_a": None if math.isnan(score) else float(p),
        }
        for pair, score, p in zip(pairs, scores, win_probabilities(scores), strict=True)
    ]
