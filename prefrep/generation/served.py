"""Sampling on a server of vLLM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import httpx
from torch import distributed

from prefrep.console import tell
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError
from prefrep.generation.base import Sampled, Settings, Template, split
from prefrep.generation.vllm import Version, export
from prefrep.nn.backbone import Backbone
from prefrep.records import Messages
from prefrep.web import Kind, RefusedError, ServerError, authorities, headers, request

VLLM = Kind("vllm serve", "VLLM_API_KEY")
_STARTED = re.compile(r"^process_start_time_seconds (\S+)", re.MULTILINE)


class VLLMServerSampler(Settings):
    """Sampling on a server of vLLM, which may have GPUs of its own; it was run with vLLM 0.32 on a CPU and never on a GPU.

    The server is started in its developer mode, in which it reads new weights when it is told to:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL

    Before responses of changed weights are sampled, the weights, with adapters merged, are written to `folder`, and the server reads them
    there. A server that was started anew in the meantime reads them again. It serves one run at a time, trained in one process.

    Args:
        url: Address of the server, such as `http://127.0.0.1:8000`. A key is taken from the environment variable VLLM_API_KEY.
        folder: Folder of the weights, which this process and the server see under the same path.
        temperature: See `Settings`; vLLM refuses temperatures above 2.
        top_p: See `Settings`.
        max_new_tokens: See `Settings`.
        template: See `Settings`.
        top_k: See `Settings`.
        concurrency: Prompts that are asked at a time.
        patience: Seconds to wait for a server that does not answer.

    Raises:
        ConfigError: A value is outside its range.
    """

    _given: ClassVar[dict[str, dict[str, Any]]] = {}  # which weights a server has, by its address

    def __init__(
        self,
        url: str,
        folder: str,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = 256,
        template: Template = "auto",
        top_k: int = 0,
        concurrency: int = 64,
        patience: float = 600.0,
    ) -> None:
        super().__init__(temperature, top_p, max_new_tokens, template, top_k)
        if not re.match(r"https?://[^/]", url):
            raise ConfigError(f"VLLMServerSampler.url {url!r:.80} is no http address; write one such as http://127.0.0.1:8000")
        if concurrency < 1 or not patience > 0:
            raise ConfigError(f"concurrency must be 1 or more and patience above 0, got {concurrency} and {patience}")
        self.url, self.folder, self.concurrency, self.patience = url.rstrip("/").removesuffix("/v1"), folder, concurrency, patience
        self._client = httpx.Client(headers=headers(kind=VLLM), timeout=patience, verify=authorities())

    def sample(
        self, backbone: Backbone, prompts: Sequence[Messages], responses: int, seeds: Sequence[int], shorten: bool = False
    ) -> Iterator[tuple[Sampled, ...]]:
        """See `Sampler`.

        Raises:
            ServerError: The server does not answer, or refuses what it is asked.
            ConfigError: The run has several processes.
        """
        if not prompts:
            return iter(())
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError("VLLMServerSampler: the server takes its weights from one process; train with --trainer.devices 1")
        encoded, encoder, ends = self._prompts(backbone, prompts, responses)
        limits = self._limits(backbone, prompts, encoded, shorten)
        name = self._get("/v1/models")["data"][0]["id"]
        drawn = responses if self.temperature > 0 else 1
        common = {"model": name, "n": drawn, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        whole, done = sum(limits), 0

        def ask(ids: Ids, limit: int, seed: int) -> Any:
            body = {**common, "prompt": ids.tolist(), "max_tokens": limit, "seed": seed, "stop_token_ids": ends}
            return self._post("/v1/completions", body)

        found: list[Any] = []
        while not found:
            started = self._give(backbone, encoder.tokenizer)
            with ThreadPoolExecutor(self.concurrency) as pool:
                for limit, answer in zip(limits, pool.map(ask, encoded, limits, seeds), strict=True):
                    found.append(answer)
                    done += limit
                    tell(answer["usage"]["completion_tokens"], done / whole)
            if self._started() != started:  # some responses may be of the weights that it began with
                found, done = [], 0

        def sampled(choice: Any) -> Sampled:
            text, lead = split(choice["text"], encoder)
            return Sampled(text, choice["finish_reason"] == "stop", lead)

        ordered = [sorted(answer["choices"], key=lambda choice: choice["index"]) for answer in found]
        return iter([tuple(map(sampled, choices)) * (responses // drawn) for choices in ordered])

    def _give(self, backbone: Backbone, tokenizer: Any) -> float:
        """Give the server the model's weights unless it has them; return when it was started, in seconds since 1970."""
        started = self._started()
        given = {"weights": Version(backbone), "started": started}
        if given != self._given.get(self.url):
            self._given.pop(self.url, None)
            folder = Path(self.folder).expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True)
            export(backbone, tokenizer, folder)
            try:
                self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            except RefusedError as error:
                raise ServerError(
                    f"{error}; start it with VLLM_SERVER_DEV_MODE=1, with the model {backbone.path}, where it can read {folder}"
                ) from None
            if not self._post("/reset_prefix_cache", None)["success"]:
                raise ServerError(
                    f"{self.url}: keeps keys and values of earlier weights, since it serves others too; use one server per run"
                )
            self._given[self.url] = given
        return started

    def _started(self) -> float:
        self._get("/v1/models")  # waits for a server that is starting
        try:
            found = _STARTED.search(self._client.get(f"{self.url}/metrics").text)
        except httpx.TransportError as error:
            raise ServerError(f"{self.url}/metrics: no answer ({type(error).__name__}: {error}); is `vllm serve` running there?") from None
        if found is None:
            raise ServerError(f"{self.url}/metrics does not say when the server was started; start `vllm serve` with one API server")
        return float(found[1])

    def _get(self, path: str) -> Any:
        return request(self._client, "GET", self.url + path, None, self.patience, VLLM)

    def _post(self, path: str, body: dict[str, Any] | None) -> Any:
        return request(self._client, "POST", self.url + path, body, self.patience, VLLM)
