"""Sampling on a server of vLLM: with a stand-in that speaks its protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import encoder, shift
from safetensors.torch import load_file

from prefrep.cli.main import main
from prefrep.errors import ConfigError, TrainingError, UsageError
from prefrep.generation import Sampled, VLLMServerSampler
from prefrep.generation.weights import export
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.records import Message, Messages
from prefrep.web import ServerError

ROOT = Path(__file__).parents[2]


def user(text: str) -> Messages:
    return (Message("user", text),)


FINISH = {0: "stop"}  # of each response to a prompt; the others are cut off
PROMPTS = [user("Why?"), user("Name a prime number, please.")]


class StandIn(ThreadingHTTPServer):
    """Answers with a sum of the weights that it was told to load last, and with what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.loaded, self.asked = threading.Lock(), 0, list[dict[str, Any]]()
        self.weights, self.started, self.restart_at, self.busy = "those it began with", 1.0, -1, False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def load(self, folder: str) -> None:
        self.weights, self.loaded = summary(load_file(Path(folder) / "model.safetensors")), self.loaded + 1


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/metrics":
            state = f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {self.server.started:e}\n"
            labels = 'handler="/collective_rpc",method="POST",status="2xx"'
            self._say((state + f"http_requests_total{{{labels}}} {self.server.loaded}.0\n").encode())
        else:
            self._say(json.dumps({"data": [{"id": "the-model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        with self.server.lock:
            if self.path == "/collective_rpc":
                self.server.load(body["kwargs"]["weights_path"])
                self._say(b'{"results": [null]}')
            elif self.path == "/reset_prefix_cache":
                self._say(json.dumps({"success": not self.server.busy}).encode())
            elif self.server.restart_at == len(self.server.asked):  # as killed and started anew between two requests
                self.server.restart_at, self.server.weights, self.server.started = -1, "those it began with", self.server.started + 1
                self._say(b"", 503)
            else:
                self.server.asked.append(body)
                self._say(json.dumps(answer(body, self.server.weights)).encode())

    def _say(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def answer(body: dict[str, Any], weights: str) -> dict[str, Any]:
    texts = [f"{weights} {body['seed']} {number}" for number in range(body["n"])]
    choices = [{"index": i, "text": text, "finish_reason": FINISH.get(i, "length")} for i, text in enumerate(texts)]
    return {"choices": choices[::-1], "usage": {"completion_tokens": 7}}


def summary(state: dict[str, torch.Tensor]) -> str:
    """One number for all weights, by name; the output layer is that of the embeddings."""
    return f"{sum(len(name) * float(state[name].detach().double().sum()) for name in sorted(state) if name != 'lm_head.weight'):.4f}"


@pytest.fixture
def server() -> Iterator[StandIn]:
    found = StandIn()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def backbone() -> Backbone:
    return Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()


def expected(backbone: Backbone, seeds: list[int]) -> list[tuple[Sampled, ...]]:
    weights = summary(backbone.merged_state())
    return [(Sampled(f"{weights} {seed} 0", True), Sampled(f"{weights} {seed} 1", False)) for seed in seeds]


def test_responses_are_those_of_the_present_weights(server: StandIn, backbone: Backbone, tmp_path: Path) -> None:
    sampler = VLLMServerSampler(f"{server.url}/v1", str(tmp_path / "weights"), max_new_tokens=16, top_k=5)
    for round_ in range(3):
        assert list(sampler.sample(backbone, PROMPTS, 2, [3, 4])) == expected(backbone, [3, 4])
        assert list(sampler.at(0.5).sample(backbone, PROMPTS, 2, [5, 6])) == expected(backbone, [5, 6])
        assert list(VLLMServerSampler(server.url, str(tmp_path / "other")).sample(backbone, PROMPTS, 2, [7, 8])) == expected(
            backbone, [7, 8]
        )
        assert server.loaded == round_ + 1, "equal weights are not handed over again"
        shift(backbone, 0.1)
    assert list(tmp_path.joinpath("weights").iterdir()) == [], "weights are deleted when they are read"
    assert sorted(server.asked[:2], key=lambda body: body["seed"]) == [
        {
            "model": "the-model", "prompt": ids.tolist(), "n": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 16,
            "seed": seed, "stop_token_ids": sampler.encoder(backbone)[1],
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0,
        }
        for ids, seed in zip(encoder().prompts(PROMPTS), (3, 4), strict=True)
    ]  # fmt: skip
    assert {body["temperature"] for body in server.asked[2:4]} == {0.5}


def test_greedy_responses_are_drawn_once(server: StandIn, backbone: Backbone, tmp_path: Path) -> None:
    sampler = VLLMServerSampler(server.url, str(tmp_path), temperature=0)
    (own,) = sampler.sample(backbone, PROMPTS[:1], 3, [1])
    assert own == expected(backbone, [1])[0][:1] * 3 and [body["n"] for body in server.asked] == [1]


@pytest.mark.parametrize("at", range(4))
def test_a_server_that_is_started_anew_gets_the_weights_again(server: StandIn, backbone: Backbone, tmp_path: Path, at: int) -> None:
    sampler = VLLMServerSampler(server.url, str(tmp_path))
    shift(backbone, 0.2)
    server.restart_at = at
    for seeds in ([1, 2], [3, 4]):
        assert list(sampler.sample(backbone, PROMPTS, 2, seeds)) == expected(backbone, seeds)
    assert server.loaded == 2


def test_weights_of_others_are_noticed(server: StandIn, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    shift(other, 0.3)
    export(other, other.tokenizer(), tmp_path / "other")
    sampler = VLLMServerSampler(server.url, str(tmp_path / "own"))
    list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    server.load(str(tmp_path / "other"))
    assert list(sampler.sample(backbone, PROMPTS, 2, [3, 4])) == expected(backbone, [3, 4])
    assert server.loaded == 3
    plain = Handler.do_POST

    def busy(self: Handler) -> None:
        if self.path == "/v1/completions":  # before the answer, behind which the sampler looks
            server.load(str(tmp_path / "other"))
        plain(self)

    monkeypatch.setattr(Handler, "do_POST", busy)
    with pytest.raises(ServerError, match="given weights by others"):
        list(sampler.sample(backbone, PROMPTS, 2, [5, 6]))


def test_a_run_samples_on_a_server(server: StandIn, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "configs" / "tiny" / "gpo.yaml").read_text())
    options = {"url": server.url, "folder": str(tmp_path / "weights"), "max_new_tokens": 12}
    for callback in content["trainer"]["callbacks"]:
        if "sampler" in callback.get("init_args", {}):
            callback["init_args"]["sampler"] = {"class_path": "VLLMServerSampler", "init_args": options}
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Name prime number {i}.\n" for i in range(8)))

    def fit(out: str) -> dict[str, str]:
        (tmp_path / "gpo.yaml").write_text(yaml.safe_dump(content))
        main(["fit", "--config", str(tmp_path / "gpo.yaml"), "--data.train", str(prompts), "--data.val", str(prompts),
              "--trainer.default_root_dir", str(tmp_path / out), "--trainer.accelerator", "cpu"])  # fmt: skip
        return {str(file.relative_to(tmp_path / out)): file.read_text() for file in sorted((tmp_path / out).glob("rounds/*/*.jsonl"))}

    first = fit("first")
    rounds = content["trainer"]["max_epochs"]
    assert server.loaded == rounds + 1, "each policy is handed over once, to sampling and held-out evaluation together"
    tables = [first[f"rounds/{number}/held_out.jsonl"].splitlines() for number in range(rounds + 1)]
    policies = [{json.loads(line)["responses"][0].split()[0] for line in table} for table in tables]
    assert all(len(each) == 1 for each in policies) and len(set.union(*policies)) == rounds + 1
    assert fit("second") == first
    del options["url"]
    with pytest.raises(UsageError, match="url"):
        fit("third")


def test_sentences(server: StandIn, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no http address"):
        VLLMServerSampler("localhost:8000", "x")
    with pytest.raises(ConfigError, match="keys do not belong there; set the environment variable VLLM_API_KEY"):
        VLLMServerSampler("http://me:secret@localhost:8000", "x")
    with pytest.raises(ConfigError, match="patience must be above 0"):
        VLLMServerSampler(server.url, "x", patience=0)
    with pytest.raises(ConfigError, match=r"temperatures from 0\.01 to 2"):
        list(VLLMServerSampler(server.url, "x", 2.5).sample(backbone, PROMPTS, 2, [1, 2]))
    sampler = VLLMServerSampler(server.url, str(tmp_path), patience=0.5)
    server.busy = True
    with pytest.raises(ServerError, match="serves others too"):
        list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    server.busy = False
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_POST", lambda self: self._say(b'{"error": {"message": "Not Found"}}', 404))
        with pytest.raises(ServerError, match=r"collective_rpc: Not Found; start it anew with VLLM_SERVER_DEV_MODE=1"):
            list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_POST", lambda self: self._say(b'{"error": {"message": "EngineCore"}}', 500))
        for words in ("collective_rpc: EngineCore; start it anew", "has a part of some weights"):
            with pytest.raises(ServerError, match=words):
                list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    with pytest.raises(ServerError, match="has a part of some weights"):
        list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    server.started += 1
    assert list(sampler.sample(backbone, PROMPTS, 2, [1, 2])) == expected(backbone, [1, 2])
    with monkeypatch.context() as patch:
        patch.setitem(FINISH, 0, "abort")
        with pytest.raises(ServerError, match="ended with 'abort'"):
            list(sampler.sample(backbone, PROMPTS, 1, [1, 2]))
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_GET", lambda self: self._say(b"nothing"))
        with pytest.raises(ServerError, match="does not say when the server was started"):
            list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.is_initialized", lambda: True)
        patch.setattr("torch.distributed.get_world_size", lambda: 2)
        with pytest.raises(ConfigError, match="of one process"):
            sampler.check()
    assert list(sampler.sample(backbone, [], 2, [])) == []
    with pytest.raises(ServerError, match="nothing listens there.*start `vllm serve`"):
        list(VLLMServerSampler("http://127.0.0.1:9", str(tmp_path)).sample(backbone, PROMPTS, 2, [1, 2]))
    with torch.no_grad():
        next(backbone.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        list(sampler.sample(backbone, PROMPTS, 2, [1, 2]))
