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
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]  # Python adds the address
        raise ConfigError(f"--host {host} --port {port}: the address cannot be used ({reason}); choose another port") from error
    return found


class Server(uvicorn.Server):
    """A server of models. Its signals are prefrep's: the first one stops it gracefully, the second one kills.

    Args:
        shared: The models and what the routes share.
    """

    def __init__(self, shared: Context) -> None:
        super().__init__(uvicorn.Config(
            create(shared), log_config=None, access_log=False, server_header=False, lifespan="off", timeout_keep_alive=75, backlog=2048,
            timeout_graceful_shutdown=int(shared.settings.timeout) + 1,
        ))  # fmt: skip
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        for name in ("uvicorn", "uvicorn.error", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # they quote what clients send

    def answer(self, listening: socket.socket) -> None:
        """Load the models and answer requests until `stop` is called or a signal arrives; requests in flight are answered.

        Args:
            listening: A bound socket.

        Raises:
            PrefrepError: A model cannot be loaded.
        """
        host, port = listening.getsockname()[:2]
        address, models = f"http://{f'[{host}]' if ':' in host else host}:{port}", self._shared.models
        log.info("listening on %s; loading %s", address, ", ".join(models.folders))

        def load() -> None:
            models.load()
            if models.error is not None:
                self.should_exit = True
            else:
                log.info("ready: %s (page), %s/docs (routes)", address, address)

        Thread(target=load, name="load", daemon=True).start()
        try:
            asyncio.run(self.serve(sockets=[listening]))
        finally:
            listening.close()
        models.check()
        models.close()
        log.info("stopped")

    def stop(self) -> None:
        """Stop: no new connections, groups are answered by those who came, requests in flight are answered."""
        self.should_exit = self._shared.models.stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._shared.groups.flush)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs."""
        self._loop = asyncio.get_running_loop()
        signals = StopSignals(lambda number, again: None if again else self.stop())
        signals.listen()
        try:
            yield
        finally:
            signals.close()
