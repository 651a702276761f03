"""Wrong, half, huge and hostile requests: a status of 4xx, one sentence, no traceback, and the server goes on."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Serves, random_records, serving

from prefrep.errors import DataError, UsageError
from prefrep.scoring import Scorer
from prefrep.server.run import bind
from prefrep.server.settings import Serving

GOOD = {"prompt": "Name a prime", "responses": ["7", "9"]}
PATHS = ("/v1/compare", "/v1/table", "/v1/rank", "/v1/score", "/v1/embed", "/v1/rewards", "/get_reward", "/v1/rerank")


def wrong_value(draw: random.Random, depth: int = 0) -> Any:
    """Anything but what a field wants."""
    kinds = [None, True, -1, 1e308, "", [], {}, [[]], {"role": "user"}, [{"role": 1, "content": 2}], [None], 2**70, [["x", 1]]]
    if depth < 4 and draw.random() < 0.3:
        return [wrong_value(draw, depth + 1)] if draw.random() < 0.5 else {"content": wrong_value(draw, depth + 1)}
    return draw.choice(kinds)


def malformed(draw: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A request (method, path, body, headers) that is wrong in some way."""
    path, kind = draw.choice(PATHS), draw.randrange(12)
    headers = {"Content-Type": "application/json"}
    good = json.dumps(GOOD).encode()
    bodies: list[bytes] = [
        json.dumps({"prompt": wrong_value(draw), "responses": {"not": "a list"}, "query": wrong_value(draw) or 0, "documents": 3}).encode(),
        good[: draw.randrange(len(good))],
        good.replace(b"7", bytes([draw.choice((0x80, 0xFF, 0xC3, 0xED))])),
        b"[" * draw.choice((5000, 200_000)),
        draw.choice((b"NaN", b"Infinity", b'{"prompt": NaN, "responses": ["a", "b"]}', b'{"query": ["a"], "labels": [NaN]}')),
        good.replace(b"9", b"\\ud800"),
        json.dumps(wrong_value(draw)).encode(),
        json.dumps({"prompt": "x", "responses": ["a"] * 200, "query": ["a"] * 200, "documents": ["a"] * 200}).encode(),
        b'{"prompt": "' + b"x" * 300_000 + b'", "responses": ["a", "b"]}',
        good,
        good,
        bytes(draw.randrange(256) for _ in range(draw.randrange(1, 300))),
    ]
    if kind == 9:
        return draw.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")), path, good, headers
    if kind == 10:
        return "POST", draw.choice((path + "/", path + "%00", "/..%2f..%2fetc/passwd", "/page/../run.py", path.upper())), good, headers
    if kind == 11 and draw.random() < 0.5:
        headers = {"Content-Type": draw.choice(("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"))}
    return "POST", path, bodies[kind], headers


def test_malformed_requests(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    draw, statuses = random.Random(0), set[int]()
    with serving({"bt": folders["bt"]}, body_mb=0.25) as it, caplog.at_level(logging.INFO):
        for number in range(500):
            method, path, body, headers = malformed(draw)
            found = it.client.request(method, path, content=body, headers=headers)
            about = f"{number}: {method} {path} {body[:80]!r} -> {found.status_code} {found.text[:300]}"
            assert 400 <= found.status_code < 500, about
            statuses.add(found.status_code)
            sentence = found.json()["error"]
            assert isinstance(sentence, str) and 5 < len(sentence) < 700 and "\n" not in sentence and "Traceback" not in sentence, about
        assert it.client.post("/v1/table", json=GOOD).status_code == 200
    assert {400, 404, 405, 413, 415, 422} <= statuses
    assert "Traceback" not in caplog.text and "ERROR" not in caplog.text


def test_half_sent_bodies_and_heads(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with serving({"bt": folders["bt"]}) as it, caplog.at_level(logging.INFO):
        address = (it.client.base_url.host, it.client.base_url.port or 0)
        for sent in (
            b"POST /v1/table HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
            b"POST /v1/table HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pro",
            b"POST /v1/tab", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n",
        ):  # fmt: skip
            for _ in range(5):
                with socket.create_connection(address, timeout=10) as connection:
                    connection.sendall(sent)
        assert it.client.post("/v1/table", json=GOOD).status_code == 200
        chunked = it.client.post("/v1/table", content=(b" " * 1000 for _ in range(10_000)), headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413
    assert "Traceback" not in caplog.text and "ERROR" not in caplog.text


def test_limits_name_the_field(folders: dict[str, Path]) -> None:
    with serving({"gpm": folders["gpm"], "pair": folders["pair"]}, responses=4, text_tokens=50) as it:
        many = it.refused("/v1/table", 422, prompt="x", responses=["a"] * 5)
        assert many.startswith("responses: 5, and at most 4 are compared at a time")
        assert it.refused("/v1/table", 422, records=[GOOD, {"prompt": "x", "responses": ["a"] * 5}]).startswith("records[1].responses: 5")
        assert it.refused("/v1/rank", 422, prompt="word " * 200, responses=["a"]).startswith("prompt: ")
        long = it.refused("/v1/rank", 422, records=[GOOD, {"prompt": "x", "responses": ["a", "word " * 200]}])
        assert long.startswith("records[1].responses[1]: ") and "longer than the 50 tokens" in long
        start, end = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
        queries = [f"{start}a{end}", f"{start}{'word ' * 200}{end}"]
        for wait in (queries, queries[1:]):
            assert it.refused("/get_reward", 422, query=wait).startswith(f"query[{len(wait) - 1}]: it is longer")
        assert it.refused("/get_reward", 422, query=[f"<|im_start|>user\n{'word ' * 200}{queries[0][17:]}"]).startswith("query[0]: it is")
        assert it.refused("/v1/rerank", 422, query="x", documents=["a", "word " * 200]).startswith("documents[1]: it is longer")
        assert it.refused("/v1/rerank", 422, query="x", texts=["a", "word " * 200]).startswith("texts[1]: it is longer")
        assert it.refused("/v1/rerank", 422, query="word " * 200, documents=["a"]).startswith("query: it is longer")
        assert it.refused("/v1/score", 422, prompt="x", responses=["a", "b"], anchors=["word " * 200]).startswith("anchors: it is")
        assert it.refused("/v1/rerank", 422, query="x", documents=[]) == "documents: must not be empty; /docs has the form of the body"
        assert it.refused("/v1/rerank", 422, query="x", documents=["a"] * 5).startswith("documents: 5")
        assert it.refused("/v1/table", 404, model="nothing", **GOOD) == "model: there is no 'nothing'; this server has gpm, pair"
        assert "embeds no single response" in it.refused("/v1/embed", 422, model="pair", **GOOD)
        assert "gives no reward" in it.refused("/v1/rewards", 422, **GOOD)
        assert it.refused("/v1/compare", 422, prompt="x", responses=["a"]) == "responses: two are compared, got 1"


class Slow:
    """Makes a served model wait for a gate."""

    def __init__(self, it: Serves) -> None:
        self.scorer = it.models("gpm").engine.scorer
        self.gate, self.reads, inner = threading.Event(), 0, self.scorer.read

        def read(trees: Any) -> Any:
            self.reads += 1
            assert self.gate.wait(60)
            return inner(trees)

        self.scorer.read = read  # type: ignore[method-assign]


def test_a_full_queue_and_a_late_answer(folders: dict[str, Path]) -> None:
    with serving({"gpm": folders["gpm"]}, queue=4, timeout=1.0) as it:
        slow = Slow(it)
        threads = [threading.Thread(target=lambda: it.client.post("/v1/table", json=GOOD)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while it.models("gpm").engine.waiting < 4:
            time.sleep(0.01)
        assert it.counted("queue_sequences", model="gpm") == 4
        full = it.client.post("/v1/table", json=GOOD)
        assert full.status_code == 429 and full.headers["Retry-After"] == "1" and "the queue is full" in full.json()["error"]
        assert it.client.get("/health").status_code == 200, "the event loop does not wait for the model"
        for thread in threads:
            thread.join()
        slow.gate.set()
        while it.models("gpm").engine.waiting:
            time.sleep(0.01)
        slow.gate.clear()
        assert "no answer within 1 seconds" in it.refused("/v1/table", 504, **GOOD)
        slow.gate.set()
        while it.models("gpm").engine.waiting:
            time.sleep(0.01)
        assert it.client.post("/v1/table", json=GOOD).status_code == 200


def test_work_of_a_client_that_left_is_dropped(folders: dict[str, Path]) -> None:
    with serving({"gpm": folders["gpm"]}) as it:
        slow = Slow(it)
        thread = threading.Thread(target=lambda: it.client.post("/v1/table", json=GOOD))
        thread.start()
        while not slow.reads:
            time.sleep(0.01)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(it.url + "/v1/table", json=GOOD, timeout=0.2)
        while it.models("gpm").engine.waiting > 2:
            time.sleep(0.01)
        slow.gate.set()
        thread.join()
        assert it.client.post("/v1/table", json=GOOD).status_code == 200
        assert slow.reads == 2 and it.counted("dropped_total", model="gpm") == 3


def test_tokens(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens").write_text("first-token\nsecond-token\n")
    with serving({"bt": folders["bt"]}, tokens=str(tmp_path / "tokens")) as it:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-token"}, {"Authorization": "first-token"}):
            for method, path in (
                ("POST", "/v1/table"),
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
                ("GET", "/docs"),
                ("POST", "/get_reward"),
            ):
                found = it.client.request(method, path, json=GOOD, headers=headers)
                assert (
                    found.status_code == 401 and found.headers["WWW-Authenticate"] == "Bearer" and "bearer token" in found.json()["error"]
                )
        for token in ("first-token", "second-token"):
            assert it.client.post("/v1/table", json=GOOD, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert it.client.get("/health").status_code == it.client.get("/ready").status_code == it.client.get("/").status_code == 200
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="holds no token"), serving({"bt": folders["bt"]}, tokens=str(tmp_path / "empty")):
        pass
    monkeypatch.setenv("PREFREP_TOKENS", "from-environment")
    with serving({"bt": folders["bt"]}) as it:
        assert it.client.post("/v1/table", json=GOOD).status_code == 401


def test_other_origins_only_if_asked(folders: dict[str, Path], served: Serves, tmp_path: Path) -> None:
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in served.client.post("/v1/table", json=GOOD, headers=asks).headers
    with serving({"bt": folders["bt"]}, cors=("https://example.org",)) as it:
        assert it.client.options("/v1/table", headers=asks).headers["access-control-allow-origin"] == "https://example.org"
        other = it.client.options("/v1/table", headers=asks | {"Origin": "https://other.org"})
        assert "access-control-allow-origin" not in other.headers
    (tmp_path / "tokens").write_text("secret\n")
    with serving({"bt": folders["bt"]}, cors=("https://example.org",), tokens=str(tmp_path / "tokens")) as it:
        assert it.client.options("/v1/table", headers=asks).headers["access-control-allow-origin"] == "https://example.org"
        assert it.client.post("/v1/table", json=GOOD).status_code == 401


def test_texts_are_not_logged(folders: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"bt": folders["bt"]}) as it, caplog.at_level(logging.DEBUG, logger="prefrep"):
        it.post("/v1/table", prompt="my secret", responses=["my secret", "b"])
        it.client.post("/v1/table", json={"prompt": "my secret", "responses": "my secret"})

        def broken(trees: Any) -> Any:
            raise RuntimeError(trees)

        monkeypatch.setattr(it.models("bt").engine.scorer, "read", broken)
        assert it.refused("/v1/table", 500, prompt="my secret", responses=["a"]) == "an error of the server, which its log locates"
    assert "secret" not in caplog.text and "RuntimeError" in caplog.text


def test_a_score_that_is_not_finite(folders: dict[str, Path]) -> None:
    with serving({"bt": folders["bt"]}) as it:
        next(it.models("bt").engine.scorer.model.head.parameters()).data.fill_(float("nan"))
        assert "not finite" in it.refused("/v1/table", 500, **GOOD)


@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.slow)])
def test_many_clients_at_once(seconds: int, served: Serves, scorers: dict[str, Scorer]) -> None:
    records = random_records(7, 24, 4)
    expected = {name: list(scorers[name].tables(records)) for name in ("gpm", "bt", "pair")}
    wrong, asked, end = list[Any](), list[int](), time.monotonic() + seconds

    def client(seed: int) -> None:
        draw, count = np.random.default_rng(seed), 0
        with httpx.Client(base_url=served.url, timeout=120, verify=False) as mine:
            while count < 8 or time.monotonic() < end:
                i, name, count = int(draw.integers(len(records))), str(draw.choice(list(expected))), count + 1
                body = {"model": name, "prompt": records[i].prompt[0].content, "responses": [m[0].content for m in records[i].responses]}
                found = mine.post("/v1/table", json=body)
                if found.status_code != 200 or np.abs(np.array(found.json()["table"]) - expected[name][i]).max() > 1e-4:
                    wrong.append((i, found.status_code, found.text[:200]))
        asked.append(count)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(asked) == 64
    print(f"{sum(asked)} requests")


def test_addresses_and_numbers(folders: dict[str, Path]) -> None:
    taken = bind("127.0.0.1", 0)
    with pytest.raises(Exception, match="the address cannot be used"):
        bind("127.0.0.1", taken.getsockname()[1])
    taken.close()
    for wrong in ({"responses": 1}, {"group_size": 0}, {"timeout": 0.0}, {"body_mb": -1.0}, {"queue": 0}):
        with pytest.raises(UsageError, match="must be"):
            Serving(**wrong)  # type: ignore[arg-type]
