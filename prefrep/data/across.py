"""Pairs of responses to different prompts: how policies read them (JPO, arXiv 2404.00530), and who refuses them."""

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


def check_one_prompt(record: Record, gated: bool = False) -> None:
    """Raise RecordError: the sides of a record have different prompts, and a policy or a head that is gated by the prompt reads them."""
    if one_prompt(record):
        return
    problem = "its responses answer different prompts" + (", and this head is gated by the prompt of both" if gated else "")
    remedy = (
        "use a head without a gate, such as BTHead"
        if gated
        else "set --model.across joint (prompt and response are compared together) or conditional"
    )
    raise RecordError(record.source or "a record", problem, f"{remedy}, or leave such rows out")
