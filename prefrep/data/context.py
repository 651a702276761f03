"""A column of the data as context in the prompt: communities (ComPO, arXiv:2410.16027), annotators, criteria, or a tag.

The model reads who asks: `[group: r/science]` stands above the first message of the user. With it one model answers for many communities,
at one read for each. Two controls tell whether a model uses what it is told: a wrong group for each record, and groups dealt at random.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from prefrep.errors import DataError
from prefrep.records import Messages, Record

R = TypeVar("R", bound=Record)
Control = Literal["wrong-group", "shuffled-groups"]


def told(record: R, column: str) -> R:
    """Return a record whose prompt names its value of a column; records without a value, or without a prompt, stay as they are.

    Args:
        record: The record.
        column: `group`, `annotator`, `criterion`, or the name of a tag; empty: none.
    """
    prompt = asked_by(record.prompt, column, _value(record, column))
    return record if prompt is record.prompt else replace(record, prompt=prompt)


def asked_by(prompt: Messages, column: str, value: str) -> Messages:
    """Return a prompt that names a value of a column; it stays as it is without a value, or without a user's message.

    Args:
        prompt: The prompt.
        column: Name of the column.
        value: Who asks; empty: nobody in particular.
    """
    turn = next((i for i, message in enumerate(prompt) if message.role == "user"), None)
    if not value or turn is None:
        return prompt
    message = replace(prompt[turn], content=f"[{column}: {value}]\n{prompt[turn].content}")
    return (*prompt[:turn], message, *prompt[turn + 1 :])


def _value(record: Record, column: str) -> str:
    match column:
        case "":
            return ""
        case "group" | "annotator" | "criterion":
            return str(getattr(record, column))
        case _:
            return record.tags.get(column, "")


def control(records: Sequence[R], how: Control, seed: int = 0) -> Iterator[R]:
    """Yield records whose groups are not their own.

    Args:
        records: The records.
        how: `wrong-group`: each gets one of the other groups, equally likely. `shuffled-groups`: the groups are dealt at random, so that
            their sizes stay.
        seed: Of the draws.

    Raises:
        DataError: There are fewer than two groups.
    """
    numbers: dict[str, int] = {}
    groups = array("i", (numbers.setdefault(record.group, len(numbers)) for record in records))
    names = list(numbers)
    known = sorted(numbers.keys() - {""})
    if len(known) < 2:
        raise DataError(f"the control {how} needs two groups or more in the column 'group', and there are {len(known)}")
    generator = np.random.default_rng(seed)
    if how == "shuffled-groups":
        for record, i in zip(records, generator.permutation(len(groups)), strict=True):
            yield replace(record, group=names[groups[i]])
        return
    steps = generator.integers(1, len(known), len(records))
    for record, step in zip(records, steps, strict=True):
        yield replace(record, group=known[(known.index(record.group) + int(step)) % len(known)]) if record.group else record
