"""LoRA: adapters alone are trained, and merged adapters are the same model."""

from __future__ import annotations

import pytest
import torch
from conftest import data_of, hidden, shift
from peft.tuners.lora import LoraLayer
from torch.utils.flop_counter import FlopCounterMode

from prefrep.data.trees import collate
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_lora_is_the_same_model(name: str) -> None:
    torch.manual_seed(0)
    adapted = Backbone(f"bundled:tiny-{name}", lora=LoRA(rank=2))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = Backbone(f"bundled:tiny-{name}")
    batch = collate(data_of(plain.path), pad_id=0)
    before = hidden(plain, batch)
    plain.model.load_state_dict(adapted.merged_state())
    assert (hidden(plain, batch) - before).abs().max() > 0.01
    torch.testing.assert_close(hidden(plain, batch), hidden(adapted.eval(), batch), atol=1e-4, rtol=1e-4)


def test_adapters_are_merged_in_the_precision_of_the_weights() -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4))
    shift(backbone, 0.1)
    plain = backbone.merged_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(tensor, plain[name]) for name, tensor in backbone.merged_state().items())


def test_lora_trains_adapters_alone() -> None:
    names = [name for name, parameter in Backbone("bundled:tiny-llama", lora=LoRA()).named_parameters() if parameter.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_lora_multiplies_no_gradient_that_nobody_needs() -> None:
    """Products of a step on T tokens, with P base and A adapter weights: 2 P T and 2 A T forward, as much for gradients of inputs except
    where texts come in, and 2 A T, without 2 P T, for gradients of weights."""
    torch.manual_seed(0)
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2)).train()
    assert backbone.supports_trees()
    batch = collate(data_of(backbone.path), pad_id=0)
    linear = {name: module.weight.numel() for name, module in backbone.transformer.named_modules() if isinstance(module, torch.nn.Linear)}
    every = sum(linear.values())
    adapters = sum(count for name, count in linear.items() if "lora_" in name)
    first = sum(count for name, count in linear.items() if "layers.0.self_attn." in name and "o_proj" not in name and "lora_B" not in name)
    with FlopCounterMode(display=False) as counter:
        backbone(batch.ids, batch.positions, batch.until, batch.padded).sum().backward()
    assert counter.get_flop_counts()["Global"][torch.ops.aten.mm] == 2 * batch.tokens * (2 * every - first + adapters)


def test_dropout_of_adapters_stays() -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2, dropout=0.5)).train()
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = collate(data_of(backbone.path), pad_id=0)
    assert not torch.equal(hidden(backbone, batch), hidden(backbone, batch))


def test_adapters_of_packed_weights_are_not_merged() -> None:
    """Four-bit weights are bytes, to which nothing can be added: a twin computes with the adapters beside them, or without them."""
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2))
    layers = {name: module for name, module in backbone.model.named_modules() if isinstance(module, LoraLayer)}
    packed, *others = layers
    layers[packed].get_base_layer().weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    kept = {name for name, module in backbone.twin().model.named_modules() if isinstance(module, LoraLayer)}
    assert kept == {packed} and others
    assert not any(isinstance(module, LoraLayer) for module in backbone.twin(adapters=False).model.modules())
