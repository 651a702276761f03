"""Groups over requests: single responses to one prompt wait for each other, since a comparing model needs something to compare."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefrep.errors import RecordError
from prefrep.functional.groups import mean_log_odds
from prefrep.records import Messages

Table = Callable[[Messages, Sequence[Messages]], Awaitable[Any]]
_Member = tuple[Messages, asyncio.Future[tuple[float, int]]]


@dataclass
class _Group:
    prompt: Messages
    table: Table
    members: list[_Member] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


async def _readable(group: _Group, members: Sequence[_Member]) -> list[_Member]:
    """Return the members that can be read; the others get their errors."""
    found = await asyncio.gather(*(group.table(group.prompt, [response]) for response, _ in members), return_exceptions=True)
    for (_, own), each in zip(members, found, strict=True):
        if isinstance(each, BaseException) and not own.done():
            own.set_exception(each)
    return [member for member, each in zip(members, found, strict=True) if not isinstance(each, BaseException)]


class Groups:
    """Single responses that wait for others to the same prompt.

    Args:
        size: Responses that fill a group, which is then answered.
        wait: Seconds after its first response at which a group that did not fill is answered by those who came.
        count: Called with `yes` or `no` for each group, by whether it filled.
    """

    def __init__(self, size: int, wait: float, count: Callable[[str], object]) -> None:
        self._size, self._wait, self._count = size, wait, count
        self._open: dict[Hashable, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, key: Hashable, prompt: Messages, response: Messages, table: Table) -> tuple[float, int]:
        """Return the mean log-odds of a response against the others of its group, and the size of the group.

        Args:
            key: Names the model and what is asked of it; groups of different keys do not mix.
            prompt: The prompt.
            response: The response.
            table: Answers a prompt and responses with their log-odds.

        Returns:
            0 and 1 where no other response came.
        """
        whole = (key, prompt)
        group = self._open.get(whole)
        if group is None:
            group = self._open[whole] = _Group(prompt, table)
            if self._size > 1 and self._wait > 0:
                group.timer = asyncio.get_running_loop().call_later(self._wait, self._close, whole)
        own: asyncio.Future[tuple[float, int]] = asyncio.get_running_loop().create_future()
        group.members.append((response, own))
        if self._size == 1 or self._wait == 0 or len(group.members) == self._size:
            self._close(whole)
        try:
            return await own
        except asyncio.CancelledError:
            group.members = [each for each in group.members if each[1] is not own]
            if not group.members and self._open.get(whole) is group:
                self._open.pop(whole)
                if group.timer:
                    group.timer.cancel()
            raise

    def flush(self) -> None:
        """Answer all groups by those who came: the server stops."""
        self._wait = 0
        for key in list(self._open):
            self._close(key)

    def _close(self, key: Hashable) -> None:
        group = self._open.pop(key)
        if group.timer:
            group.timer.cancel()
        self._count("yes" if len(group.members) >= self._size else "no")
        task = asyncio.ensure_future(self._answer(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _answer(group: _Group) -> None:
        members = list(group.members)
        try:
            try:
                odds = await group.table(group.prompt, [response for response, _ in members])
            except RecordError:  # one of them cannot be read, and the others need not suffer
                members = await _readable(group, members)
                odds = await group.table(group.prompt, [response for response, _ in members]) if members else np.zeros((0, 0))
            means = mean_log_odds(odds)
        except Exception as error:
            for _, own in members:
                if not own.done():
                    own.set_exception(error)
            return
        for (_, own), mean in zip(members, means.tolist(), strict=True):
            if not own.done():
                own.set_result((mean, len(members)))
