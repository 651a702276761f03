"""Sampling on a server of vLLM."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
from transformers import PreTrainedTokenizerBase

from prefrep.console import tell
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError
from prefrep.generation.base import Sampled, Template
from prefrep.generation.engine import VLLM
from prefrep.generation.weights import Version, export
from prefrep.nn.backbone import Backbone
from prefrep.records import Messages
from prefrep.web import Kind, RefusedError, ServerError, address, authorities, headers, request

log = logging.getLogger(__name__)

SERVER = Kind("vllm serve", "VLLM_API_KEY")
NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}  # else a model's own defaults
_STARTED = re.compile(r"^process_start_time_seconds (\S+)", re.MULTILINE)
_RELOADS = re.compile(r'^http_requests_total\{[^}]*handler="/collective_rpc"[^}]*\} (\S+)', re.MULTILINE)


class VLLMServerSampler(VLLM):
    """Sampling on a server of vLLM, which may have GPUs of its own; it was run with vLLM 0.32 on a CPU and never on a GPU.

    The server is started in its developer mode, in which it reads new weights when it is told to:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --generation-config vllm

    Before responses of changed weights are sampled, the weights, with adapters merged, are written to `folder`, read by the server, and
    deleted. They are given again to a server that was started anew, or that was given others. It serves one run, trained in one process.
    Whoever reaches a server in developer mode can give it orders, with or without a key: keep its port to yourself.

    Args:
        url: Address of the server, such as `http://127.0.0.1:8000`. A key is taken from the environment variable VLLM_API_KEY.
        folder: Folder that this process and the server see under the same path, with room for the weights.
        temperature: See `Settings`; from 0.01 to 2, or 0.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
        patience: Seconds to wait for an answer, and for a server that is started anew.

    Raises:
        ConfigError: A value is outside its range.
    """

    _handed: ClassVar[dict[str, Any]] = {}  # which weights a server has, by its address

    def __init__(
        self,
        url: str,
        folder: str,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 256,
        template: Template = "auto",
        top_k: int = 0,
        patience: float = 600.0,
    ) -> None:
        super().__init__(temperature, top_p, max_new_tokens, template, top_k)
        if not patience > 0:
            raise ConfigError(f"patience must be above 0, got {patience}")
        self.url = address(url, type(self).__name__, SERVER.variable).removesuffix("/v1")
        self.folder, self.patience = folder, patience
        self._client = httpx.Client(
            headers=headers(kind=SERVER), timeout=patience, verify=authorities(), limits=httpx.Limits(max_connections=None)
        )

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`.

        Raises:
            ServerError: The server does not answer, refuses what it is asked, or is given weights by others.
            ConfigError: The run has several processes.
        """
        self.check()
        if not prompts:
            return iter(())
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        drawn = self._drawn(responses)
        for _ in range(3):
            state = self._give(backbone, encoder.tokenizer)
            common = {
                "model": self._model(), "n": drawn, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
                "stop_token_ids": ends, **NEUTRAL,
            }  # fmt: skip
            found = self._asked(common, encoded, limits, seeds)
            if self._state() == state:
                break
            log.warning("%s was started anew or given other weights; %d prompts are asked again", self.url, len(prompts))
        else:
            raise ServerError(f"{self.url}: is given weights by others, or does not stay up; one server per run")

        def sampled(choice: Any) -> Sampled:
            return self._sampled(choice["text"], choice["finish_reason"], encoder, self.url)

        ordered = [sorted(answer["choices"], key=lambda choice: choice["index"]) for answer in found]
        return iter([tuple(map(sampled, choices)) * (responses // drawn) for choices in ordered])

    def _asked(self, common: dict[str, Any], prompts: Sequence[Ids], limits: Sequence[int], seeds: Sequence[int]) -> list[Any]:
        def ask(ids: Ids, limit: int, seed: int) -> Any:
            return self._post("/v1/completions", {**common, "prompt": ids.tolist(), "max_tokens": limit, "seed": seed})

        found, done = [], 0
        with ThreadPoolExecutor(min(len(prompts), 256)) as pool:
            for limit, answer in zip(limits, pool.map(ask, prompts, limits, seeds), strict=True):
                found.append(answer)
                done += limit
                tell(answer["usage"]["completion_tokens"], done / sum(limits))
        return found

    def _give(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
        """Give the server the model's weights unless it has them; return its state with them."""
        weights, state = Version(backbone), self._state()
        if self._handed.get(self.url) == (weights, state):
            return state
        self._handed.pop(self.url, None)
        folder = Path(self.folder).expanduser().absolute()
        place, mark, server = folder / uuid4().hex, folder / "unfinished", f"{self.url} {state[0]}"
        if mark.exists() and mark.read_text() == server:
            raise ServerError(f"{self.url}: has a part of some weights, since giving them was interrupted; start the server anew")
        place.mkdir(parents=True)
        try:
            export(backbone, tokenizer, place)
            mark.write_text(server)  # vLLM does not begin anew with what was interrupted
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(place)}})
            mark.unlink()
        except RefusedError as error:
            if error.status in (401, 404):  # nothing was begun
                mark.unlink()
            way = f"start it anew with VLLM_SERVER_DEV_MODE=1, with the model that is trained, where it can read {folder}"
            raise ServerError(f"{error}; {way}") from None
        finally:
            shutil.rmtree(place)
        if not self._post("/reset_prefix_cache", None)["success"]:
            raise ServerError(f"{self.url}: keeps keys and values of earlier weights, since it serves others too; one server per run")
        state = state[0], min(self._state()[1], state[1] + 1)  # more than one is somebody else's
        self._handed[self.url] = weights, state
        return state

    def _model(self) -> str:
        """Return the name that the server gives its model."""
        try:
            return str(request(self._client, "GET", f"{self.url}/v1/models", None, self.patience, SERVER)["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise ServerError(f"{self.url}/v1/models: not from vllm serve; correct the address") from None

    def _state(self) -> tuple[float, float]:
        """Return when the server was started, in seconds since 1970, and how often it was told to do something to its weights."""
        path = f"{self.url}/metrics"
        text = request(self._client, "GET", path, None, self.patience, SERVER, read=lambda found: found.text)
        started = _STARTED.search(text)
        if started is None:
            raise ServerError(f"{path} does not say when the server was started; use `vllm serve` on Linux with one API server")
        return float(started[1]), sum(float(each) for each in _RELOADS.findall(text))

    def _post(self, path: str, body: dict[str, Any] | None) -> Any:
        return request(self._client, "POST", self.url + path, body, self.patience, SERVER)
