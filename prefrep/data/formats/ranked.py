"""Formats of rows with any number of responses."""

from __future__ import annotations

from collections.abc import Mapping

from prefrep.data.fields import named, number, prompt_of, rating, response, text_response
from prefrep.data.formats.base import SIDES, Format, is_texts
from prefrep.data.turns import MisfitError, Row, kind, need
from prefrep.records import RankedResponses, Record


def _rewardbench2(row: Row) -> Record:
    """Return the correct answers of RewardBench 2 with score 1, then the others with score 0."""
    need(row, *SIDES)
    prompt = prompt_of(row)
    for name in SIDES:
        if not isinstance(row[name], list):
            raise MisfitError(
                f"'{name}' must be a list of texts, found {kind(row[name])}",
                "prefrep eval rewardbench reads one answer each",
            )
    right, wrong = ([text_response(each, name) for each in row[name]] for name in SIDES)
    if not right:
        raise MisfitError("'chosen' holds no answer")
    stated = row.get("num_correct")
    if stated is not None and stated != len(right):
        raise MisfitError(f"num_correct is {stated}, but 'chosen' holds {len(right)}")
    return RankedResponses(prompt, (*right, *wrong), (1.0,) * len(right) + (0.0,) * len(wrong), **named(row))


def _ultrafeedback(row: Row) -> Record:
    """Read ratings by aspect; scores are `overall_score`, else `fine-grained_score`, if every completion has it."""
    need(row, "completions")
    prompt = prompt_of(row, "instruction")
    given = row["completions"]
    if not isinstance(given, list) or not given or not all(isinstance(each, Mapping) for each in given):
        raise MisfitError("'completions' must be a non-empty list of objects with a response")
    for each in given:
        need(each, "response")
    notes = [each.get("annotations") or {} for each in given]
    if not all(isinstance(note, Mapping) for note in notes):
        raise MisfitError("'annotations' must be an object of aspects to ratings")
    ratings = {}
    for aspect in dict.fromkeys(aspect for note in notes for aspect in note):
        found = [note.get(aspect) for note in notes]
        ratings[aspect] = tuple(rating(value.get("Rating") if isinstance(value, Mapping) else value, aspect) for value in found)
    complete = [name for name in ("overall_score", "fine-grained_score") if all(each.get(name) is not None for each in given)]
    scores = tuple(number(each[complete[0]], complete[0]) for each in given) if complete else None
    return RankedResponses(prompt, tuple(text_response(each["response"], "response") for each in given), scores, ratings, **named(row))


def _ranked(row: Row) -> Record:
    """Read K responses with `scores` (higher is better) or `ranking` (ranks from 1, the best; equal ranks are ties)."""
    need(row, "responses")
    prompt = prompt_of(row)
    names = [name for name in ("scores", "ranking") if row.get(name) is not None]
    for name in ("responses", *names):
        if not isinstance(row[name], list):
            raise MisfitError(f"'{name}' must be a list, found {kind(row[name])}")
    if len(names) > 1:
        raise MisfitError("both 'scores' and 'ranking' are given", "keep one of them")
    sign = -1.0 if names == ["ranking"] else 1.0
    scores = tuple(sign * number(value, names[0]) for value in row[names[0]]) if names else None
    return RankedResponses(prompt, tuple(response(each, "responses") for each in row["responses"]), scores, **named(row))


REWARDBENCH2 = Format(
    '{"prompt", "chosen": [TEXT], "rejected": [TEXT], "num_correct", "subset", "id"}',
    lambda row: "prompt" in row and is_texts(row.get("chosen")) and isinstance(row.get("rejected"), list),
    _rewardbench2,
)
ULTRAFEEDBACK = Format(
    '{"instruction", "completions": [{"response", "annotations": {ASPECT: {"Rating"}}}]}',
    lambda row: {"instruction", "completions"} <= row.keys(),
    _ultrafeedback,
)
RANKED = Format('{"prompt", "responses": [...], "scores" or "ranking": [...]}', lambda row: "responses" in row, _ranked)
