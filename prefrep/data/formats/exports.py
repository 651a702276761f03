"""Formats of annotation tools and trainers: Argilla, Label Studio, and ShareGPT-style rows as LLaMA-Factory reads them.

They follow the documented exports; none was tested on real rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefrep.data.fields import named, pair, prompt_of, response
from prefrep.data.formats.base import Format
from prefrep.data.formats.verdicts import choice, verdict
from prefrep.data.turns import MisfitError, Row, conversation, kind, need, parsed_json
from prefrep.records import Comparison, Message, Messages, RankedResponses, Record

# Names of the two responses in templates of Label Studio and Argilla, and other common ones.
PAIRS = (
    ("answer1", "answer2"), ("response1", "response2"), ("response-1", "response-2"), ("response_1", "response_2"), ("text1", "text2"),
    ("response_a", "response_b"), ("output_1", "output_2"), ("left", "right"), ("chosen", "rejected"),
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "context")


def _sides(data: Mapping[str, Any]) -> tuple[str, str]:
    for names in PAIRS:
        if all(data.get(name) is not None for name in names):
            return names
    raise MisfitError(f"no two responses (found: {', '.join(map(str, data))})", "name their fields answer1 and answer2, for example")


def _prompt(data: Mapping[str, Any]) -> Messages:
    return prompt_of(data, next((name for name in PROMPTS if data.get(name) is not None), PROMPTS[0]))


# ---- Label Studio


def _label_studio(row: Row) -> list[Comparison]:
    """Read a pairwise task of Label Studio, `left` or `right` being selected: one comparison per annotation that is not cancelled."""
    data = row.get("data")
    if not isinstance(data, Mapping):  # JSON_MIN: fields and the choice are on one level
        names = [name for name, each in zip(row, row.values(), strict=True) if isinstance(each, Mapping) and "selected" in each]
        return [_selected(row, row, row[names[0]]["selected"], row.get("annotator"))]
    found = []
    for note in row.get("annotations") or []:
        if not isinstance(note, Mapping) or note.get("was_cancelled"):
            continue
        who = note.get("completed_by")
        who = who.get("email") or who.get("id") if isinstance(who, Mapping) else who
        for result in note.get("result") or []:
            value = result.get("value") if isinstance(result, Mapping) else None
            if isinstance(value, Mapping) and "selected" in value:
                found.append(_selected(row, data, value["selected"], who))
    if not found:
        raise MisfitError("no annotator selected left or right", "remove the task, or export annotated tasks only")
    return found


def _selected(row: Row, data: Mapping[str, Any], selected: object, who: object) -> Comparison:
    names = _sides(data)
    side = choice(selected, "selected", {"left": 0, "right": 1, "tie": None})
    sides = [response(data[name], name) for name in names]
    return verdict(row, _prompt(data), sides, side, annotator="" if who is None else str(who), label_source="human")


def _fits_label_studio(row: Row) -> bool:
    if isinstance(row.get("data"), Mapping):
        return "annotations" in row
    return any(isinstance(each, Mapping) and each.get("selected") in ("left", "right") for each in row.values())


# ---- Argilla


def _argilla(row: Row) -> list[Record]:
    """Read an export of Argilla 2: columns `QUESTION.responses`, one entry per annotator, and `QUESTION.responses.users`.

    A label must name a field (`response1`), or end in its number or letter (`1`, `b`, `response-2`); `tie`, `draw` and `equal` are ties. A
    ranking is a list of `{"value", "rank"}`. Of several such questions each is a criterion; answers to others (comments, ratings) become
    tags. Discarded answers are skipped.
    """
    fields = {name.removesuffix(".responses"): row[name] for name in row if name.endswith(".responses") and row[name]}
    found: dict[str, list[Comparison | RankedResponses]] = {}
    others: dict[str, str] = {}
    problem = MisfitError("no submitted response", "export answered records only")
    for question in fields:
        answers = _submitted(row, question)
        try:
            found[question] = [_argilla_answer(row, answer, {"annotator": user, "label_source": "human"}) for answer, user in answers]
        except MisfitError as error:
            problem, others[question] = error, "; ".join(str(answer) for answer, _ in answers)
    if not any(found.values()):
        raise problem
    several = sum(map(bool, found.values())) > 1
    return [
        replace(record, tags={**record.tags, **others}, criterion=question if several else record.criterion)
        for question, records in found.items()
        for record in records
    ]


def _submitted(row: Row, question: str) -> list[tuple[object, str]]:
    """Return the answers to a question that were submitted, with their annotators."""
    answers = row[f"{question}.responses"]
    users, states = (row.get(f"{question}.responses.{name}") for name in ("users", "status"))
    columns = [answers, users or [""] * len(answers), states or ["submitted"] * len(answers)]
    if not all(isinstance(column, list) and len(column) == len(answers) for column in columns):
        raise MisfitError(f"'{question}.responses' and its columns 'users' and 'status' must be lists of equal length")
    return [(answer, str(user)) for answer, user, state in zip(*columns, strict=True) if state in ("submitted", None)]


def _argilla_answer(row: Row, answer: object, who: Mapping[str, str]) -> Comparison | RankedResponses:
    return _argilla_ranking(row, answer, who) if isinstance(answer, list) else _argilla_label(row, answer, who)


def _argilla_label(row: Row, answer: object, who: Mapping[str, Any]) -> Comparison:
    names = _sides(row)
    said = str(answer).strip().lower()
    sides = [name for name in names if said == name or re.fullmatch(rf"(response|answer|model|option)?[-_ ]?{re.escape(name[-1])}", said)]
    if not isinstance(answer, str) or (not sides and said not in ("tie", "draw", "equal")):  # numbers are ratings
        raise MisfitError(f"the label {answer!r:.40} names neither '{names[0]}' nor '{names[1]}'", "rename the labels to the fields' names")
    side = names.index(sides[0]) if len(sides) == 1 else None
    return verdict(row, _prompt(row), [response(row[name], name) for name in names], side, **who)


def _argilla_ranking(row: Row, answer: list[object], who: Mapping[str, str]) -> RankedResponses:
    ranks: dict[str, float] = {}
    for each in answer:
        if not isinstance(each, Mapping) or not isinstance(each.get("rank"), int | float) or row.get(str(each.get("value"))) is None:
            raise MisfitError("a ranking must be a list of {value, rank}, in which each value is the name of a field")
        ranks[str(each["value"])] = -float(each["rank"])
    common = {**named(row), **{name: value for name, value in who.items() if value}}
    return RankedResponses(_prompt(row), tuple(response(row[name], name) for name in ranks), tuple(ranks.values()), **common)


def _fits_argilla(row: Row) -> bool:
    return any(name.endswith(".responses") and isinstance(value, list) for name, value in row.items() if isinstance(name, str))


# ---- ShareGPT

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "system": "system", "observation": "tool", "tool": "tool", "function_call": "assistant",
}  # fmt: skip


def _sharegpt(row: Row) -> Record:
    """Read `conversations` of {"from", "value"} with one more turn as `chosen` and as `rejected`; `function_call` turns call a tool."""
    need(row, "chosen", "rejected")
    prompt = _from_value(row.get("conversations"), "conversations")
    sides = [_from_value(value if isinstance(value := row[name], list) else [value], name) for name in ("chosen", "rejected")]
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if side[-1].role != "assistant":
            raise MisfitError(f"'{name}' must be a turn of the assistant (from: gpt), found {side[-1].role}")
    return pair(row, prompt, *sides)


def _from_value(value: object, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise MisfitError(f"'{name}' must be a non-empty list of turns, found {kind(value)}")
    messages: list[Message] = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("from"), str) or not isinstance(turn.get("value"), str):
            if isinstance(turn, Mapping) and "role" in turn:
                messages += conversation([turn], name)
                continue
            raise MisfitError(f"a turn in '{name}' needs from and value, both text")
        role = ROLES.get(turn["from"])
        if role is None:
            raise MisfitError(f"'{name}' has a turn from {turn['from']!r:.40}; known are {', '.join(ROLES)}")
        call = parsed_json(turn["value"]) if turn["from"] == "function_call" else None
        if isinstance(call, Mapping | list):
            calls = [{"type": "function", "function": each} for each in (call if isinstance(call, list) else [call])]
            messages += conversation([{"role": role, "content": "", "tool_calls": calls}], name)
        else:
            messages.append(Message(role, turn["value"]))
    return tuple(messages)


def _fits_sharegpt(row: Row) -> bool:
    turns = row.get("conversations")
    if not {"chosen", "rejected"} <= row.keys() or not isinstance(turns, list):
        return False
    return bool(turns) and all(isinstance(turn, Mapping) and "from" in turn for turn in turns)


LABEL_STUDIO = Format(
    '{"data": {"prompt", "answer1", "answer2"}, "annotations": [{"completed_by", "result": [{"value": {"selected": "left"}}]}]}',
    _fits_label_studio,
    _label_studio,
)
ARGILLA = Format('{"prompt", "response1", "response2", "QUESTION.responses": [...], "QUESTION.responses.users"}', _fits_argilla, _argilla)
SHAREGPT = Format(
    '{"conversations": [{"from": "human", "value"}], "chosen": {"from": "gpt", "value"}, "rejected"}', _fits_sharegpt, _sharegpt
)
