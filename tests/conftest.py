"""What tests share: tiny random models and records, no network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# First: typing keeps one of Optional[Union[int, float]] and Optional[Union[float, int]], whichever was made earlier, and jsonargparse takes
# `limit_train_batches 1` for 1.0, all of them, where some other library made the second.
import lightning.pytorch  # noqa: F401
import torch
from transformers import AutoModelForCausalLM

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trees import Datum, TreeBatch
from prefrep.nn import tiny as tiny_models
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Comparison, Message

TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
FAMILIES = tiny_models.FAMILIES

torch.set_num_threads(1)


def comparison(prompt: str, chosen: str, rejected: str, **more: object) -> Comparison:
    """A comparison of two texts."""
    return Comparison((Message("user", prompt),), (Message("assistant", chosen),), (Message("assistant", rejected),), **more)  # type: ignore[arg-type]


COMPARISONS = [
    comparison("Name a prime", "7", "9"),
    comparison("Say hello to a friend of mine", "Hello, friend!", "Hello, fiend! Go away."),
    comparison("Why?", "Because it rains, and rain is wet; that is all there is to it.", "No."),
    comparison("Same beginning", "Sure, here it is: one", "Sure, here it is: two"),
]


def program(*name: str) -> Callable[[list[str]], int]:
    """A program as the shell calls it, without a process of its own."""
    from prefrep.cli.main import main

    return lambda args: main([*name, *args])


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same for what fixtures of whole modules run."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefrep.callbacks.first.cache_folder", lambda: folder)
        yield


@pytest.fixture(autouse=True)
def features(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of hidden states for each test: none may pass on what another one, or older code, has read."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("prefrep.data.features.cache_folder", lambda: folder)
    monkeypatch.setattr("prefrep.data.kept.cache_folder", lambda: folder)
    monkeypatch.setattr("prefrep.callbacks.first.cache_folder", lambda: folder)
    return folder / "features"


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that a test names with `--import` are its own: workers of later tests would import them too."""
    monkeypatch.setattr("prefrep.declared._imported", {})


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`caplog` sees what is logged, also where an earlier test ran a program, which keeps its messages to itself."""
    monkeypatch.setattr(logging.getLogger("prefrep"), "propagate", True)
    logging.getLogger("prefrep").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Backbone:
    """A tiny random backbone of each supported family, fp32."""
    return Backbone(f"bundled:tiny-{request.param}").eval()


@pytest.fixture(scope="session")
def llama() -> Backbone:
    """A tiny random Llama, fp32. Do not train it: others share it."""
    return Backbone("bundled:tiny-llama").eval()


def encoder(path: str = "bundled:tiny-llama", layout: str = "single", **config: object) -> Encoder:
    """An encoder for a bundled tokenizer."""
    return Encoder(load_tokenizer(path), EncodeConfig(**config), layout)  # type: ignore[arg-type]


def shift(backbone: Backbone, by: float) -> None:
    """An update of the adapters, in place as optimizers do it."""
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(by)


def tiny(folder: Path, config: Any) -> str:
    """A random model in a folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def data_of(path: str) -> list[Datum]:
    """What a tokenizer makes of the comparisons above."""
    return [datum for _, datum in encoder(path).encode(COMPARISONS) if datum is not None]


def hidden(backbone: Backbone, batch: TreeBatch) -> torch.Tensor:
    """Hidden states of all tokens of a batch [R * L, H]."""
    with torch.no_grad():
        return backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)  # type: ignore[no-any-return]


def random_rows(generator: torch.Generator, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of random trees of any depth, and padding at the end: parent of each token as a place in its row, `until` and positions.

    The parent is -1 for a first token and -2 for padding.
    """
    parent = torch.full((rows, length), -2)
    until, positions = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.long)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for row in range(rows):
        path: list[int] = []
        for at in range(length - draw(1, 4)):
            if draw(0, 3) == 0:  # a branch: up to some token on the path, or a new tree
                path = path[: draw(0, len(path) + 1)]
            parent[row, at], positions[row, at] = path[-1] if path else -1, len(path)
            path.append(at)
            for above in path:
                until[row, above] = at + 1
    return parent, until, positions
