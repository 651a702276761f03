"""Weights of earlier rounds: they come back, and those in memory are there again afterwards, whatever happens between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from prefrep.errors import DataError
from prefrep.modules.earlier import keep_weights, weights_of


class Model(LightningModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.base, self.adapter = nn.Linear(size, size), nn.Linear(size, size, dtype=torch.bfloat16)
        self.base.requires_grad_(False)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_earlier_policy_is_there_for_a_while(tmp_path: Path) -> None:
    file, model = tmp_path / "0" / "policy.safetensors", Model()
    early = state(model)
    keep_weights(model, file)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(1.0)  # what is frozen is no part of the file
    late = state(model)
    with pytest.raises(KeyError), weights_of(model, file):
        now = state(model)
        assert torch.equal(now["adapter.weight"], early["adapter.weight"]) and torch.equal(now["base.weight"], late["base.weight"])
        raise KeyError
    assert same(state(model), late) and [each.name for each in file.parent.iterdir()] == [file.name]
    keep_weights(model, file)
    with weights_of(model, file):
        assert same(state(model), late)


def test_weights_that_are_missing_or_of_another_model(tmp_path: Path) -> None:
    model = Model()
    with pytest.raises(DataError, match="no weights of that round"), weights_of(model, tmp_path / "none.safetensors"):
        pass
    keep_weights(Model(4), tmp_path / "other.safetensors")
    before = state(model)
    with pytest.raises(DataError, match="holds weights of another model"), weights_of(model, tmp_path / "other.safetensors"):
        pass
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"broken.safetensors: .*start again"), weights_of(model, tmp_path / "broken.safetensors"):
        pass
    assert same(state(model), before)
