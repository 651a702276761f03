"""PILAF's sampling against explicit mixtures of logits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from conftest import encoder
from peft.tuners.tuners_utils import BaseTunerLayer

from prefrep.errors import ConfigError
from prefrep.functional.pilaf import tilt
from prefrep.generation import TiltedSampler, TransformersSampler
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.records import Message

PROMPTS = [(Message("user", "Why?"),), (Message("user", "Name a prime number, please."),)]


@pytest.fixture(scope="module")
def policy() -> Backbone:
    """A policy that has moved away from its base."""
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return backbone


@torch.no_grad()
def logits(backbone: Backbone, prompt: Sequence[int], ids: Sequence[int], adapters: bool) -> torch.Tensor:
    """Logits before each of the ids, in fp64 [T, V]."""
    layers = [module for module in backbone.model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(adapters)
    found: torch.Tensor = backbone.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
    for layer in layers:
        layer.enable_adapters(True)
    return found


def test_responses_come_from_the_mixture(policy: Backbone) -> None:
    """The log-probabilities that a response carries are those of what it was drawn from."""
    b = 0.7
    for prompt, own in zip(PROMPTS, TiltedSampler(b, max_new_tokens=7).sample(policy, PROMPTS, 6, [3, 4]), strict=True):
        before = encoder().prompts([prompt])[0].tolist()
        for each, amount in zip(own, (0.0, 0.0, b, -b, 0.0, 0.0), strict=True):
            assert each.ids is not None and each.exact == (amount == 0)
            h, g = (logits(policy, before, each.ids, adapters) for adapters in (True, False))
            assert not torch.allclose(h, g, atol=0.1)
            logprobs = tilt(h, g, amount).log_softmax(-1).gather(1, torch.tensor(each.ids)[:, None])
            assert each.logprob == pytest.approx(logprobs.sum().item(), abs=2e-4)


def test_without_a_tilt_it_is_plain_sampling(policy: Backbone) -> None:
    plain = list(TransformersSampler(1.0, 1.0, 8).sample(policy, PROMPTS, 4, [1, 2]))
    assert list(TiltedSampler(0.0, max_new_tokens=8).sample(policy, PROMPTS, 4, [1, 2])) == plain
    moved = list(TiltedSampler(2.0, max_new_tokens=8).sample(policy, PROMPTS, 4, [1, 2]))
    assert [own[:2] for own in moved] == [own[:2] for own in plain] and moved != plain


def test_a_reference_is_needed() -> None:
    with pytest.raises(ConfigError, match="train with lora, or use TransformersSampler"):
        TiltedSampler(max_new_tokens=4).sample(Backbone("bundled:tiny-llama"), PROMPTS, 2, [0, 1])
    with pytest.raises(ConfigError, match="tilt must be 0"):
        TiltedSampler(-0.1)
