"""What every request passes: bearer tokens, counting, and the answer to defects."""

from __future__ import annotations

import hmac
import os
import time
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefrep.errors import DataError
from prefrep.server.metrics import Metrics
from prefrep.server.refusals import Refusal, refusal

OPEN = ("/", "/health", "/ready")  # and /page/...: the page itself holds nothing
HEADERS = (
    # Nothing of another host is loaded, whatever a text may contain.
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def read_tokens(path: str | None) -> list[bytes]:
    """Return bearer tokens from a file, or else from PREFREP_TOKENS, separated by white space; none: no token is needed.

    Raises:
        DataError: The file cannot be read or holds none.
    """
    if path is None:
        return [token.encode() for token in os.environ.get("PREFREP_TOKENS", "").split()]
    try:
        found = [token.encode() for token in Path(path).read_text().split()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--tokens {path}: it cannot be read ({getattr(error, 'strerror', error)})") from error
    if not found:
        raise DataError(f"--tokens {path}: it holds no token; write one per line")
    return found


class Outer:
    """The outermost part of the server.

    Args:
        app: The routes.
        metrics: Counts requests and their time.
        tokens: Bearer tokens; empty: none is needed.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tokens: list[bytes]) -> None:
        self._app, self._metrics, self._tokens = app, metrics, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            if self._permitted(scope):
                await self._app(scope, receive, noted)
            else:
                error = Refusal(401, "send a bearer token: Authorization: Bearer TOKEN", www_authenticate="Bearer")
                await refusal(error)(scope, receive, noted)
        except Exception as error:  # a defect; the routes answer everything else
            if not status:
                await refusal(error)(scope, receive, noted)
        finally:
            route = scope.get("route")
            path = str(getattr(route, "path", "other"))
            self._metrics.requests.labels(path, str(status or 499)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)

    def _permitted(self, scope: Scope) -> bool:
        path = scope["path"]
        # A browser asks by OPTIONS, without a token, whether a page of another origin may send one.
        if not self._tokens or path in OPEN or path.startswith("/page/") or scope["method"] == "OPTIONS":
            return True
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = sent.partition(b" ")
        # All are compared, each in constant time, so that the time tells nothing about any of them.
        same = [hmac.compare_digest(token.strip(), each) for each in self._tokens]
        return kind.lower() == b"bearer" and any(same)
