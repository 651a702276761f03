"""The process: starts, says what is wrong, finishes what is in flight, and is killed and started again under its clients."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import random_records

from prefrep.records import RankedResponses
from prefrep.scoring import RemoteScorer, Scorer

KILLS = int(os.environ.get("PREFREP_KILLS", "2"))  # of `test_killed_and_started_again`


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "prefrep", "serve", *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    started = start("--port", str(port), *options)
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.communicate()


def until_ready(url: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready")


def slowly(records: list[RankedResponses]) -> Iterator[RankedResponses]:
    for record in records:
        time.sleep(0.01)
        yield record


@pytest.mark.parametrize(("options", "code", "sentence"), [
    ([], 2, "name a model with --model FOLDER, or try --demo"),
    (["--model", "a", "--demo"], 2, "--demo brings its own model"),
    (["--model", "nowhere"], 1, "nowhere: no such folder"),
    (["--model", "x=a", "--model", "x=b"], 2, "there is a model 'x' already"),
    (["--model", "=a"], 2, "--model =a: write FOLDER, or NAME=FOLDER"),
    (["--model", "a="], 2, "--model a=: write FOLDER, or NAME=FOLDER"),
    (["--model", "a", "--host", "no.such.host.invalid"], 1, "the address cannot be used"),
    (["--model", "a", "--port", "70000"], 1, "the address cannot be used"),
    (["--model", "a", "--timeout", "0"], 2, "--timeout must be more than 0"),
    (["--model", "a", "--tokens", "nowhere"], 1, "--tokens nowhere: it cannot be read"),
    (["--model", "a", "--anchors", "nowhere"], 1, "--anchors nowhere: it cannot be read"),
])  # fmt: skip
def test_what_is_wrong_at_the_start(options: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    from prefrep.cli import friendly
    from prefrep.cli.main import main

    with pytest.raises(SystemExit) as end:
        friendly.run(lambda: main(["serve", "--port", "0", *options]))
    assert end.value.code == code
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight(folders: dict[str, Path]) -> None:
    with process("--model", str(folders["gpm"]), "--group-wait", "60000") as (server, url):
        until_ready(url)
        answers: list[Any] = []

        def waits() -> None:
            answers.append(httpx.post(f"{url}/v1/score", json={"prompt": "x", "responses": ["a"]}, timeout=60).json())

        thread = threading.Thread(target=waits)
        thread.start()
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        thread.join(30)
        assert answers == [{"model": "gpm", "rule": "group", "scores": [0.0], "group_sizes": [1]}]
        out, err = server.communicate(timeout=30)
        assert server.returncode == 0 and err.splitlines()[-1] == "stopped" and "Traceback" not in err + out


@pytest.mark.slow
def test_killed_and_started_again(folders: dict[str, Path]) -> None:
    records = random_records(21, 300, 6)
    expected = list(Scorer.from_pretrained(folders["gpm"]).tables(records))
    port, draw = free_port(), random.Random(0)
    options = ("--port", str(port), "--model", str(folders["gpm"]))
    server = start(*options)
    try:
        until_ready(f"http://127.0.0.1:{port}")
        for kill in range(KILLS):
            found: list[Any] = []

            def client(found: list[Any] = found) -> None:
                found.extend(RemoteScorer(f"http://127.0.0.1:{port}", patience=180).tables(slowly(records)))

            thread = threading.Thread(target=client)
            thread.start()
            time.sleep(draw.uniform(0.1, 2.5))
            assert thread.is_alive(), "it is killed in between"
            server.kill()
            server.communicate()
            server = start(*options)
            thread.join(240)
            assert len(found) == len(records)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)
            print(f"kill {kill + 1}: {len(found)} tables are those of Scorer")
    finally:
        server.kill()
        _, err = server.communicate()
    assert "Traceback" not in err


def test_the_demonstration_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefrep.demo import served
    from prefrep.demo.quickstart import Settings

    monkeypatch.setattr("prefrep.demo.served.cache_folder", lambda: tmp_path)
    settings = Settings("bundled:tiny-gpt2", prompts=8, held_out=6, steps=400, seed=0)
    folders, examples = served.prepare(settings)
    table = Scorer.from_pretrained(folders["cycles"]).table(examples[0]["prompt"], examples[0]["responses"])
    assert table[0, 1] > 0 and table[1, 2] > 0 and table[2, 0] > 0, "the examples are cycles that the model knows"
    monkeypatch.setattr("prefrep.demo.served.train", None)
    assert served.prepare(settings) == (folders, examples)
    assert json.loads((Path(folders["cycles"]) / "prefrep.json").read_text())["recipe"]["trained_on"] == "cycles of three"
