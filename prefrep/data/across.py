"""Pairs of responses to different prompts, as a policy reads them (joint preference optimization, arXiv 2404.00530)."""

from __future__ import annotations

from typing import Literal

from prefrep.errors import RecordError
from prefrep.records import Messages, Record, responses_of

Across = Literal["refuse", "joint", "conditional"]


def sides(record: Record) -> list[tuple[Messages, Messages]]:
    """Return the prompt and the response of each side of a record.

    Rows across prompts are conversations that share no question: where a response begins with a turn of somebody else, its last turn is the
    response, and the turns before it are its prompt.
    """
    responses = responses_of(record)
    if not any(len(each) > 1 and each[0].role != "assistant" for each in responses):
        return [(record.prompt, each) for each in responses]
    return [(record.prompt + each[:-1], each[-1:]) for each in responses]


def one_prompt(record: Record) -> bool:
    """Return whether all sides of a record have the same prompt."""
    return len({prompt for prompt, _ in sides(record)}) == 1


def check_one_prompt(record: Record) -> None:
    """Raise RecordError: the sides of a record have different prompts."""
    if not one_prompt(record):
        raise RecordError(
            record.source or "a record",
            "its responses answer different prompts",
            "set --model.across joint (prompt and response are compared together) or conditional, or leave such rows out",
        )
