"""Refusals: a status and one sentence, as JSON. Nothing else of an error leaves the server."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from prefrep.errors import DataError, PrefrepError
from prefrep.server.engine import QueueFull

log = logging.getLogger(__name__)

WORDS = {404: "there is no such path; /docs lists them", 405: "this path is asked with another method; /docs says which"}


class Refusal(PrefrepError):
    """A request that is refused.

    Args:
        status: HTTP status.
        sentence: What is wrong and what to do.
        headers: Headers that go with the status.
    """

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(sentence)


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response of JSON; numbers are finite, or it is a defect."""
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")


def refusal(error: Exception) -> Response:
    """Return the response to an error; of one that is not the request's fault, only that it happened."""
    if isinstance(error, Refusal):
        return answer({"error": str(error)}, error.status, error.headers)
    if isinstance(error, QueueFull):
        return answer({"error": str(error)}, 429, {"Retry-After": "1"})
    if isinstance(error, DataError):  # the model gave no number
        return answer({"error": str(error)}, 500)
    if isinstance(error, PrefrepError):
        return answer({"error": str(error)}, 422)
    if isinstance(error, HTTPException):
        return answer({"error": WORDS.get(error.status_code, str(error.detail))}, error.status_code, dict(error.headers or {}))
    # Where it happened, but not its message, which may quote a user's text.
    log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return answer({"error": "an error of the server, which its log locates"}, 500)


def install(app: FastAPI) -> None:
    """Answer the errors of routes, and paths and methods that do not exist."""

    async def handle(request: Request, error: Exception) -> Response:
        return refusal(error)

    for kind in (PrefrepError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
