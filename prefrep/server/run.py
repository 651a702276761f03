"""The process: binds the address, loads the models behind it, and stops when it is asked to."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from prefrep.errors import ConfigError
from prefrep.server.app import create
from prefrep.server.context import Context
from prefrep.signals import StopSignals

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket, before anything is loaded.

    Raises:
        ConfigError: The address is taken or is none.
    """
    try:
        found = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--host {host} --port {port}: the address cannot be used ({reason}); choose another port") from error
    return found


def run(shared: Context, listening: socket.socket) -> None:
    """Serve until a signal asks to stop; requests in flight are answered.

    Args:
        shared: The models and what the routes share.
        listening: A bound socket.

    Raises:
        PrefrepError: A model cannot be loaded.
    """
    host, port = listening.getsockname()[:2]
    server = _Server(shared, uvicorn.Config(
        create(shared), log_config=None, access_log=False, server_header=False, lifespan="off", timeout_keep_alive=75, backlog=2048,
        timeout_graceful_shutdown=int(shared.settings.timeout) + 1,
    ))  # fmt: skip
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they quote what clients send
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%d; loading %s", shown, port, ", ".join(shared.models.folders))

    def load() -> None:
        shared.models.load()
        if shared.models.error is not None:
            server.should_exit = True
        else:
            log.info("ready: http://%s:%d (page), /docs (routes)", shown, port)

    Thread(target=load, name="load", daemon=True).start()
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        listening.close()
    shared.models.check()
    shared.models.close()
    log.info("stopped")


class _Server(uvicorn.Server):
    """A server whose signals are prefrep's: the first one stops it gracefully, the second one kills."""

    def __init__(self, shared: Context, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._shared = shared

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs."""
        loop = asyncio.get_running_loop()

        def stop(number: int, again: bool) -> None:
            if not again:
                self.should_exit = self._shared.models.stopping = True
                loop.call_soon_threadsafe(self._shared.groups.flush)

        signals = StopSignals(stop)
        signals.listen()
        try:
            yield
        finally:
            signals.close()
