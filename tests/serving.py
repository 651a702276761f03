"""Tiny models behind a server in this process, on a port of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, cast

import httpx
import numpy as np
import pytest
import torch

from prefrep.data.encode import EncodeConfig
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead
from prefrep.nn.skew import GatedSkew
from prefrep.records import RankedResponses
from prefrep.scoring import Scorer, ranked
from prefrep.server.app import context
from prefrep.server.metrics import Metrics
from prefrep.server.models import Models
from prefrep.server.run import Server, bind
from prefrep.server.settings import Serving

HEADS: dict[str, Any] = {"bt": BTHead, "gpm": partial(GPMHead, dim=4, skew=GatedSkew), "hybrid": HybridHead, "pair": PairHead}


def export(place: Path, name: str, max_length: int = 512, template: str | None = None) -> Path:
    """A tiny Llama with a random head of some kind whose scores are far from 0, with its own chat template or another one."""
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    torch.manual_seed(sorted(HEADS).index(name))
    head = HEADS[name](backbone.hidden_size)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokenizer = backbone.tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    save(place / name, backbone, head, 0.5, EncodeConfig(max_length=max_length), tokenizer, {})
    return place / name


@contextmanager
def serving(folders: dict[str, Path], batch_tokens: int = 1024, **settings: Any) -> Iterator[Serves]:
    """A running server of some folders; stopped afterwards, and nothing may be left in its queues."""
    how, metrics = Serving(**settings), Metrics()
    models = Models(
        {name: str(path) for name, path in folders.items()}, partial(Scorer.from_pretrained, batch_tokens=batch_tokens), how, metrics
    )
    server = Server(context(models, how, metrics))
    listening = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = Thread(target=server.answer, args=(listening,), daemon=True)
    thread.start()
    serves = Serves(url, models, metrics, server)
    try:
        serves.until_ready()
        yield serves
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert all(each.engine.waiting == 0 for each in models.all())


class Serves:
    """A server and a client of it."""

    def __init__(self, url: str, models: Models, metrics: Metrics, server: Server) -> None:
        self.url, self.models, self.metrics, self.server = url, models, metrics, server
        self.client = httpx.Client(base_url=url, timeout=60)

    def until_ready(self) -> None:
        for _ in range(600):
            if self.client.get("/ready").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError("not ready")

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a request that succeeds."""
        found = self.client.post(path, json=body)
        assert found.status_code == 200, found.text
        return found.json()

    def refused(self, path: str, status: int, **body: Any) -> str:
        """The sentence of a request that is refused."""
        found = self.client.post(path, json=body)
        assert found.status_code == status, found.text
        return cast(str, found.json()["error"])

    def counted(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(f"prefrep_{name}", labels) or 0.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported folders of all kinds of heads."""
    place = tmp_path_factory.mktemp("models")
    return {name: export(place, name) for name in HEADS}


@pytest.fixture(scope="module")
def scorers(folders: dict[str, Path]) -> dict[str, Scorer]:
    """The same in this process, without a server: the reference."""
    return {name: Scorer.from_pretrained(path) for name, path in folders.items()}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path]) -> Iterator[Serves]:
    """A server of all of them."""
    with serving(folders, group_wait=200, group_size=3) as found:
        yield found


WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()


def words(draw: np.random.Generator, low: int, high: int) -> str:
    """A random text."""
    return " ".join(draw.choice(WORDS, int(draw.integers(low, high))))


def random_records(seed: int, count: int, prompts: int, most: int = 5) -> list[RankedResponses]:
    """Records of few prompts, so that many share one, of 1 to `most` responses."""
    draw = np.random.default_rng(seed)
    asked = [words(draw, 5, 60) for _ in range(prompts)]
    return [
        ranked(asked[draw.integers(prompts)], [words(draw, 1, 30) for _ in range(int(draw.integers(1, most + 1)))]) for _ in range(count)
    ]
