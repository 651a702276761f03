"""A small OpenAI-compatible server for tests: scripted, with every fault, or with a language model behind it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import comparison

from prefrep.judges import GenerativeJudge
from prefrep.records import Comparison

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
Script = Callable[[dict[str, Any], int], Answer]


def said(text: Any, finish: str = "stop", logprobs: Any = None, **message: Any) -> Answer:
    """A completion as such servers write it. `logprobs`: (token, {token: log-probability}) for each token."""
    content = None if logprobs is None else {
        "content": [
            {"token": token, "logprob": tops.get(token, -1.0), "bytes": None,
             "top_logprobs": [{"token": each, "logprob": value, "bytes": None} for each, value in tops.items()]}
            for token, tops in logprobs
        ]
    }  # fmt: skip
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}, "logprobs": content}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}}  # fmt: skip
    return 200, {}, json.dumps(body).encode()


def failed(status: int, text: str = "no", **headers: str) -> Answer:
    """A refusal."""
    return status, headers, json.dumps({"error": {"message": text}}).encode()


class Talk:
    """What a server was asked.

    Args:
        script: From the body of a request and the number of requests with that content before it to an answer.
    """

    def __init__(self, script: Script) -> None:
        self.script, self.bodies, self.keys = script, list[dict[str, Any]](), set[str]()
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def talking(script: Script) -> Iterator[Talk]:
    """Run a server for the duration of a `with` block."""
    talk = Talk(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps([body["messages"], body.get("seed")])
            with talk.lock:
                before = talk.asked[content]
                talk.asked[content] += 1
                talk.bodies.append(body)
                talk.keys.add(self.headers.get("Authorization", ""))
                talk.together += 1
                talk.most_together = max(talk.most_together, talk.together)
            try:
                status, headers, data = talk.script(body, before)
            finally:
                with talk.lock:
                    talk.together -= 1
            if not status:  # gone without a word
                self.close_connection = True
                self.connection.close()
                return
            cut = headers.pop("Cut", None)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.wfile.flush()
            except OSError:  # the client has gone
                return
            if cut:
                self.close_connection = True
                self.connection.close()
            elif status == 200:
                with talk.lock:
                    talk.answered[content] += 1

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    talk.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield talk
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asleep(seconds: float, answer: Answer) -> Answer:
    """An answer after a while."""
    time.sleep(seconds)
    return answer


def local(path: str) -> Script:
    """A language model of this process behind the server."""
    from prefrep.judges.writing.asking import Question
    from prefrep.judges.writing.local import LocalWriter
    from prefrep.records import Message

    writer, lock = LocalWriter(path), threading.Lock()

    def script(body: dict[str, Any], before: int) -> Answer:
        turns = tuple(Message(each["role"], each["content"]) for each in body["messages"])
        labels = tuple((body.get("structured_outputs") or {}).get("choice") or ())
        assert labels == tuple(body.get("guided_choice") or ()), "servers of vLLM know one name or the other"
        style = "letter" if body["max_tokens"] == 1 else "reasons"
        asked = Question(turns, labels, style, "choice" if labels else "none", body["max_tokens"], body["temperature"], body.get("seed", 0))  # type: ignore[arg-type]
        with lock:
            ((_, reply),) = writer.ask([asked])
        if reply.finish == "refused":
            return failed(400, reply.text)
        return said(reply.text, reply.finish, reply.tail if body.get("logprobs") else None)

    return script


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a client that does not wait between attempts."""
    import openai._base_client

    monkeypatch.setattr("prefrep.judges.writing.kept.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.002)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "verdicts"


def pairs(count: int) -> list[Comparison]:
    return [comparison(f"Say the number {n}", f"good {n}", f"bad {n}", id=str(n)) for n in range(count)]


def shown_first(body: dict[str, Any]) -> str:
    """Which answer stands first in a question."""
    text = body["messages"][-1]["content"]
    return "good" if text.index("good") < text.index("bad") else "bad"


def fair(body: dict[str, Any], before: int) -> Answer:
    """Prefers the good one."""
    return said("Because. [[A]]" if shown_first(body) == "good" else "Because. [[B]]")


def judge(talk: Talk, **options: Any) -> GenerativeJudge:
    return GenerativeJudge("m", talk.url, **options)
