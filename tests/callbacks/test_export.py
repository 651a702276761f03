"""Export: what is put aside while the best weights are written."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from prefrep.callbacks.export import _aside


def test_final_weights_wait_in_the_memory_of_the_machine() -> None:
    with FakeTensorMode():
        there = _aside(nn.ParameterDict({"weight": torch.empty(3, 2, device="cuda")}))
    assert {name: (str(t.device), tuple(t.shape)) for name, t in there.items()} == {"weight": ("cpu", (3, 2))}


def test_what_is_put_aside_does_not_change_with_the_model() -> None:
    model = nn.Linear(2, 3)
    before, kept = model.weight.detach().clone(), _aside(model)
    nn.init.zeros_(model.weight)
    assert torch.equal(kept["weight"], before) and before.any()
