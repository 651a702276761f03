"""Verdicts from files: a judge's own, JudgeBench's, and battles of systems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefrep.battles import Battles
from prefrep.data.battles import read as read_battles
from prefrep.data.sources import rows as rows_of
from prefrep.errors import DataError, RecordError
from prefrep.evaluation.audit.asked import Asked, of_judgments
from prefrep.judges.writing.forms import form_of
from prefrep.judges.writing.judgments import Judgment
from prefrep.judges.writing.reading import Reply, read
from prefrep.records import Record

JUDGEBENCH = {"pair_id", "label", "order_1", "order_2"}
OWN = {"judge", "id", "places", "values"}


def verdicts(path: str, records: Sequence[Record]) -> list[Asked]:
    """Read a file of verdicts.

    `verdicts.jsonl` of an evaluation needs the records it was about; JudgeBench's rows (`order_1`, `order_2` with `text`, and `label`) and
    battles (two systems, a winner, see `prefrep.data.battles`) stand alone.

    Args:
        path: The file.
        records: What a judge was asked about, for `verdicts.jsonl`.

    Raises:
        DataError: The file cannot be read, or is about other records.
        RecordError: A row is broken.
    """
    first: Mapping[str, Any] = {}
    if Path(path).is_file() and any(part in path for part in (".json", ".jsonl")):
        first, _ = next(rows_of(path))
    if first.keys() >= OWN:
        return _own(path, records)
    if first.keys() >= JUDGEBENCH:
        return [each for row, place in rows_of(path) for each in _judgebench(row, place, Path(path).name.split(".")[0])]
    found = read_battles([path])
    return of_battles(found.battles)


def _own(path: str, records: Sequence[Record]) -> list[Asked]:
    judgments = []
    for row, place in rows_of(path):
        try:
            values = None if row["values"] is None else tuple(float(each) for each in row["values"])
            if values is not None and len(values) != len(row["places"]):
                raise ValueError(f"{len(values)} values for {len(row['places'])} answers")
            judgments.append(
                Judgment(str(row["judge"]), str(row["id"]), tuple(map(int, row["places"])), values, bool(row.get("soft")),
                         str(row.get("why", "")), tuple(map(str, row.get("replies", ()))))
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(place, f"no verdict ({error})", "name a verdicts.jsonl as prefrep wrote it") from error
    if not records:
        raise DataError(f"{path}: holds no texts; name what the judge was asked about with --data")
    known = {record.id for record in records}
    if missing := next((each.id for each in judgments if each.id not in known), None):
        raise DataError(f"{path}: is about a record {missing!r:.60} that --data does not have; name the data of that evaluation")
    if any(len(each.places) != 2 for each in judgments):
        raise DataError(f"{path}: an audit reads verdicts on two answers; this judge was asked in form rating or best-of")
    return of_judgments(records, judgments)


def _judgebench(row: Mapping[str, Any], place: str, judge: str) -> list[Asked]:
    """Two orders of a pair; each decision names the answers as they were shown, so that A is b in the second one."""
    gold = {"A>B": 1.0, "B>A": 0.0}.get(str(row["label"]))
    if gold is None:
        raise RecordError(place, f"label {row['label']!r:.40}", "it must be A>B or B>A")
    form, found = form_of("grades", "reasons"), []
    for key, first in (("order_1", 1), ("order_2", -1)):
        said = row[key] or {}
        if not isinstance(said, Mapping):
            raise RecordError(place, f"{key} is {said!r:.40}", 'it must be an object with "decision" or "text"')
        # Its own reading, where it is in the file: texts there can be cut to their ends.
        text = f"[[{said['decision']}]]" if said.get("decision") else "" if "decision" in said else str(said.get("text") or "")
        reading = read(Reply(text), form, "reasons")
        p = None if reading.shares is None else form.values([(reading.shares, False)])[0]
        one = Asked(str(row.get("judge") or judge), str(row["pair_id"]), "a", "b", p, 1, False, reading.why, gold)
        found.append(one if first == 1 else replace(one, p=None if p is None else 1 - p, first=-1))
    return found


def of_battles(battles: Battles) -> list[Asked]:
    """Return battles as questions about the systems' answers."""
    found = []
    for row in range(len(battles)):
        number = int(battles.prompt[row])
        features = {name: (float(each[row, 0]), float(each[row, 1])) for name, each in battles.features.items()}
        outcome = float(battles.outcome[row])
        plain = outcome in (0.0, 0.5, 1.0)
        p = (outcome + 0.5) / 2 if plain else min(max(outcome, 1e-4), 1 - 1e-4)
        found.append(
            Asked(
                battles.judges[int(battles.judge[row])],
                battles.prompts[number] if number >= 0 else f"battle {row}",
                battles.systems[int(battles.left[row])],
                battles.systems[int(battles.right[row])],
                p,
                int(battles.first[row]),
                not plain,
                features={name: tuple(map(math.log1p, each)) for name, each in features.items() if all(map(math.isfinite, each))},  # type: ignore[misc]
            )
        )
    return found


def with_people(questions: Sequence[Asked], votes: Sequence[Asked]) -> list[Asked]:
    """Return questions with people's votes on the same two answers to the same prompt.

    Args:
        questions: What judges were asked.
        votes: What people said, each a vote, whoever gave it.

    Raises:
        DataError: No vote is about a question.
    """
    counted: dict[tuple[str, str, str], list[float]] = {}
    for vote in votes:
        if vote.p is not None:
            low, high = sorted((vote.a, vote.b))
            total = counted.setdefault((vote.prompt, low, high), [0.0, 0.0])
            for_low = vote.outcome if vote.a == low else 1 - vote.outcome
            total[0] += for_low
            total[1] += 1 - for_low
    found = []
    for each in questions:
        low, high = sorted((each.a, each.b))
        if (votes_on := counted.get((each.prompt, low, high))) is None:
            found.append(each)
        else:
            ours, theirs = votes_on if each.a == low else votes_on[::-1]
            found.append(replace(each, people=(ours, theirs)))
    if questions and all(each.people is None for each in found):
        one, vote = questions[0], votes[0]
        raise DataError(
            f"people voted on none of the pairs: a question is about {one.a!r:.40} and {one.b!r:.40} on {one.prompt!r:.40}, a vote "
            f"about {vote.a!r:.40} and {vote.b!r:.40} on {vote.prompt!r:.40}; prompts and systems need the same names in both (in data for "
            "--model, tags system_0 and system_1 name the systems, and the prompt is its text)"
        )
    return found
