"""From a request to the engine and back: waiting that ends with the answer, the time-out, or the client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import Request

from prefrep.errors import DataError
from prefrep.records import RankedResponses
from prefrep.scoring.reading import Reading
from prefrep.server.engine import Answer
from prefrep.server.models import Served
from prefrep.server.refusals import Refusal
from prefrep.server.written import Floats, Heard

Done = TypeVar("Done")
Found = Reading | Heard  # what is known of a record


async def ask(model: Served, records: Sequence[RankedResponses], finish: Callable[[Found], Any], rendered: bool = False) -> list[Answer]:
    """Return the answers about records, in order. Cancelling drops what is not begun.

    Raises:
        QueueFull: Too many texts wait.
        PrefrepError: A record cannot be read; the first such error.
    """
    futures = [asyncio.wrap_future(each) for each in model.engine.submit(records, finish, rendered)]
    try:
        return await asyncio.gather(*futures)
    finally:
        for each in futures:
            each.cancel()


async def until(request: Request, work: Awaitable[Done], seconds: float) -> Done:
    """Return what work gives, unless its time is over or its client has gone, which cancel it.

    Raises:
        Refusal: 504 too late, 499 the client has gone (nobody reads that).
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise Refusal(499, "the client has gone")
        raise Refusal(504, f"no answer within {seconds:g} seconds; ask for less at a time, or start the server with a larger --timeout")
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def table(reading: Found) -> Any:
    """Return the table of a record.

    Raises:
        DataError: It is not finite.
    """
    return checked(reading.table())


def rows(reading: Found) -> tuple[list[list[float | None]], dict[str, Any]]:
    """Return the table of a record as rows, with None where a judge that writes gave no verdict; and which questions had none, and why.

    Raises:
        DataError: A model's table is not finite.
    """
    if isinstance(reading, Heard):
        return [_nulls(row) for row in reading.known()], _silent(reading)
    return table(reading).tolist(), {}


def numbers(reading: Found) -> tuple[list[float | None], dict[str, Any]]:
    """Return one number per response, and what else there is to say; as `rows` does.

    Raises:
        ConfigError: The model compares responses.
        DataError: A model's reward is not finite.
    """
    if isinstance(reading, Heard):
        return _nulls(reading.known_rewards()), _silent(reading)
    return checked(reading.rewards()).tolist(), {}


def _nulls(values: Floats) -> list[float | None]:
    return [None if math.isnan(each) else each for each in values.tolist()]


def _silent(heard: Heard) -> dict[str, Any]:
    found = heard.silences()
    return {"no_verdict": found} if found else {}


def checked(numbers: Any) -> Any:
    """Return an array whose numbers are finite.

    Raises:
        DataError: One is not.
    """
    import numpy as np

    if not np.isfinite(numbers).all():
        raise DataError("the model gave a score that is not finite; load it with --dtype float32, or train it again")
    return numbers
