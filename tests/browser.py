"""Debian's Chromium, driven over its debugging protocol with what is installed anyway."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page in a browser of its own.

    Args:
        width: Of the window, in CSS pixels.
        height: Of the window.
        dark: Whether the system prefers dark colours.
    """

    def __init__(self, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        self._size, self._dark, self._number = (width, height), dark, 0
        self.requested: list[str] = []
        self.errors: list[str] = []

    async def __aenter__(self) -> Browser:
        assert CHROMIUM is not None
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = [
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "no-first-run",
            "hide-scrollbars",
            "remote-debugging-port=0",
        ]
        flags += [f"user-data-dir={self._folder.name}", f"window-size={self._size[0]},{self._size[1]}"]
        command = [CHROMIUM, *(f"--{flag}" for flag in flags), "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        file, until = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < until, "Chromium does not start"
            await asyncio.sleep(0.1)
        self._http = aiohttp.ClientSession()
        async with self._http.get(f"http://127.0.0.1:{file.read_text().split()[0]}/json/list") as found:
            target = next(each for each in await found.json(content_type=None) if each["type"] == "page")
        self._socket = await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setDeviceMetricsOverride", width=self._size[0], height=self._size[1], deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._socket.close()
        await self._http.close()
        self._process.terminate()
        self._process.wait(20)
        self._folder.cleanup()

    async def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command; events that arrive meanwhile are kept."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=60)).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("method") == "Runtime.exceptionThrown" or message.get("params", {}).get("entry", {}).get("level") == "error":
                self.errors.append(str(message["params"])[:500])

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not await self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script} is still false; {await self.run('document.body.innerText')}"
            await asyncio.sleep(0.05)

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def press(self, key: str) -> None:
        """Press a key: Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text="\r" if kind == "char" else "")

    async def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
