"""Requests that outlast a server which is busy, starting or gone."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

from prefrep.errors import ConfigError, PrefrepError


class Kind(NamedTuple):
    """What sentences about a server name: the command that starts it, and the environment variable of its key."""

    command: str
    variable: str


PREFREP = Kind("prefrep serve", "PREFREP_TOKEN")
AGAIN = (429, 502, 503, 504)  # statuses of servers that are busy, starting or gone
_answered: set[tuple[str, int | None]] = set()  # hosts and ports that have answered this process


class ServerError(PrefrepError):
    """A server that cannot be reached, or that refuses a request."""


class RefusedError(ServerError):
    """A request that the server has refused, and would refuse again.

    Args:
        sentence: Why.
        status: The HTTP status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def address(url: str, what: str, variable: str) -> str:
    """Return the address of a server without a slash at its end.

    Args:
        url: The address.
        what: What is there, for sentences.
        variable: Environment variable of its key.

    Raises:
        ConfigError: It is none, or holds a password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise ConfigError(f"{what}: url {url!r:.80} is no http address; write one such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query:
        raise ConfigError(f"url of {what}: keys do not belong there; set the environment variable {variable} instead")
    return urlunsplit(parts).rstrip("/")


def headers(token: str | None = None, kind: Kind = PREFREP) -> dict[str, str]:
    """Return the headers that carry a bearer token; None: that of the environment variable, or no token."""
    token = token or os.environ.get(kind.variable)
    return {"Authorization": f"Bearer {token}"} if token else {}


@cache
def authorities() -> ssl.SSLContext:
    """Return what TLS trusts, for all clients of the process: reading it takes longer than many a request."""
    return httpx.create_ssl_context()


def request(
    client: httpx.Client,
    method: str,
    url: str,
    body: dict[str, Any] | None,
    patience: float,
    kind: Kind = PREFREP,
    read: Callable[[httpx.Response], Any] = httpx.Response.json,
) -> Any:
    """Return what an answer holds, and ask again while there is hope.

    Args:
        client: An HTTP client.
        method: GET or POST.
        url: The whole URL.
        body: JSON to send.
        patience: Seconds for which the request is repeated.
        kind: The server's kind.
        read: Reads an answer; a ValueError means half of one.

    Raises:
        RefusedError: The server has refused the request.
        ServerError: There is no answer within `patience`; at once where nothing listens, and nothing there has answered before.
    """
    attempts = _Attempts(url, patience, kind)
    while True:
        try:
            found = client.request(method, url, json=body)
            if attempts.answered(found):
                return read(found)
            wait = attempts.refused(found)
        except (httpx.TransportError, ValueError) as failure:  # ValueError: half an answer, or no JSON
            wait = attempts.failed(failure)
        time.sleep(wait)


async def post(client: httpx.AsyncClient, url: str, body: dict[str, Any], patience: float) -> Any:
    """Return the JSON of an answer; arguments and errors as in `request`."""
    attempts = _Attempts(url, patience)
    while True:
        try:
            found = await client.post(url, json=body)
            if attempts.answered(found):
                return found.json()
            wait = attempts.refused(found)
        except (httpx.TransportError, ValueError) as failure:
            wait = attempts.failed(failure)
        await asyncio.sleep(wait)


class _Attempts:
    """How long to wait before a request is repeated, and when to give up."""

    def __init__(self, url: str, patience: float, kind: Kind = PREFREP) -> None:
        self._url, self._patience, self._kind = url, patience, kind
        self._until, self._pause = time.monotonic() + patience, 0.1
        parts = httpx.URL(url)
        self._place = parts.host, parts.port

    def answered(self, found: httpx.Response) -> bool:
        """Return whether an answer is the one that was asked for, and note that somebody is there."""
        _answered.add(self._place)
        return found.is_success

    def refused(self, found: httpx.Response) -> float:
        """Return seconds to wait after an answer that is no success; raises RefusedError where asking again is useless."""
        sentence = self._sentence(found)
        if found.status_code not in AGAIN:
            way = f"; set {self._kind.variable}" if found.status_code == 401 else ""
            raise RefusedError(f"{self._url}: {sentence}{way}", found.status_code)
        after = found.headers.get("Retry-After")
        return self._wait(sentence, min(float(after), 10.0) if after and after.isdecimal() else 0.0)

    def failed(self, failure: Exception) -> float:
        """Return seconds to wait after no answer; raises ServerError where nothing listens, and nothing did before."""
        if isinstance(failure, httpx.ConnectError) and self._place not in _answered:
            raise ServerError(
                f"{self._url}: nothing listens there ({failure}); start `{self._kind.command}`, or correct the address"
            ) from None
        return self._wait(f"{type(failure).__name__}: {failure}", 0.0)

    def _wait(self, why: str, least: float) -> float:
        # Clients that failed together should not come back together.
        wait = max(self._pause * (1 + random.random()), least)
        self._pause = min(2 * self._pause, 5.0)
        if time.monotonic() + wait > self._until:
            raise ServerError(
                f"{self._url}: no answer for {self._patience:g} s ({why}); is `{self._kind.command}` running there?"
            ) from None
        return wait

    def _sentence(self, found: httpx.Response) -> str:
        """Return what a server says about an error: `error` is a sentence, or has one where the protocol is OpenAI's."""
        try:
            said = found.json()["error"]
            return str(said["message"] if isinstance(said, dict) else said)
        except (ValueError, KeyError, TypeError):
            return f"status {found.status_code}, not from {self._kind.command}"
