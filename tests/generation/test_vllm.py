"""Sampling with vLLM, with a stand-in for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import encoder
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from prefrep.errors import ConfigError
from prefrep.generation import Sampled, VLLMSampler
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.records import Message, Messages


def user(text: str) -> Messages:
    return (Message("user", text),)


SHORT, LONG = user("Why?"), (*user("Name a prime number, please."), Message("assistant", "7"), *user("And another one?"))


def test_vllm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"vllm is not installed; pip install 'prefrep\[vllm\]'"):
        VLLMSampler()


@pytest.mark.parametrize("template", ["auto", "plain"])
def test_vllm_gets_merged_weights_and_prompt_tokens(template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for vLLM: what it is given is what counts here."""
    seen: list[Any] = []
    limits = [16, 16]

    class LLM:
        def __init__(self, model: str, gpu_memory_utilization: float) -> None:
            seen.append(AutoModelForCausalLM.from_pretrained(model).eval())
            assert (Path(model) / "tokenizer.json").exists() and gpu_memory_utilization == 0.3

        def generate(
            self, prompts: list[dict[str, list[int]]], options: list[SimpleNamespace], use_tqdm: bool
        ) -> Iterator[SimpleNamespace]:
            assert prompts == [{"prompt_token_ids": ids.tolist()} for ids in encoder(template=template).prompts([SHORT, LONG])]
            assert [(o.n, o.temperature, o.top_p, o.max_tokens) for o in options] == [(2, 0.7, 0.9, limit) for limit in limits]
            assert [(o.seed, o.top_k) for o in options] == [(3, -1), (4, -1)]
            outputs = [SimpleNamespace(text=" yes", finish_reason="stop"), SimpleNamespace(text="no", finish_reason="length")]
            return iter([SimpleNamespace(outputs=outputs)] * 2)

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: fake)
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    sampler = VLLMSampler(max_new_tokens=16, template=template, gpu_memory=0.3)
    wanted = [(Sampled("yes", True, " ") if template == "plain" else Sampled(" yes", True), Sampled("no", False))] * 2
    assert list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4])) == wanted
    list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4]))
    assert len(seen) == 1, "equal weights need no new engine"
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "room", len(encoder(template=template).prompts([LONG])[0]) + 5)
        limits = [16, 5]
        list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4], shorten=True))
        limits = [16, 16]
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4]))
    assert len(seen) == 2
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(seen[1](input_ids=ids).logits, backbone.model(input_ids=ids).logits, atol=1e-4)
        assert not torch.allclose(seen[0](input_ids=ids).logits, seen[1](input_ids=ids).logits, atol=1e-2)
    for module in backbone.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)  # pi_0 in the policy's place
    list(sampler.sample(backbone, [SHORT, LONG], 2, [3, 4]))
    with torch.no_grad():
        assert torch.equal(seen[2](input_ids=ids).logits, seen[0](input_ids=ids).logits)


def test_greedy_responses_are_equal_and_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM refuses more than one greedy response to a prompt."""

    class LLM:
        def __init__(self, **_: Any) -> None: ...

        def generate(self, prompts: list[Any], options: list[SimpleNamespace], use_tqdm: bool) -> list[SimpleNamespace]:
            assert all(o.temperature > 0 or o.n == 1 for o in options)
            outputs = [
                [SimpleNamespace(text=f"{len(p['prompt_token_ids'])}", finish_reason="stop")] * o.n
                for p, o in zip(prompts, options, strict=True)
            ]
            return [SimpleNamespace(outputs=each) for each in outputs]

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: fake)
    backbone, sampler = Backbone("bundled:tiny-llama").eval(), VLLMSampler(max_new_tokens=4)
    wanted = [(Sampled(str(len(ids)), True),) * 3 for ids in encoder().prompts([SHORT, LONG])]
    for temperature in (0, 0.7):
        assert list(sampler.at(temperature).sample(backbone, [SHORT, LONG], 3, [0, 1])) == wanted
