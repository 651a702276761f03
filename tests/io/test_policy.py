"""Exported policies load with transformers and say what the policy said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefrep.errors import ConfigError
from prefrep.io import policy
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA


def adapted() -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2, alpha=3.0))
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return backbone.eval()


@pytest.mark.parametrize("weights", ["merged", "adapter"])
def test_transformers_loads_what_was_saved(tmp_path: Path, weights: policy.PolicyWeights) -> None:
    backbone = adapted()
    for _ in range(2):  # a second export replaces the first
        policy.save(tmp_path / "policy", backbone, backbone.tokenizer(), {"why": "test"}, weights)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected, found = backbone.model(input_ids=ids).logits, model.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["recipe"] == {"why": "test"}
    whole = sum(file.stat().st_size for file in (tmp_path / "policy").glob("*.safetensors"))
    assert (whole < 50_000) == (weights == "adapter")


def test_there_is_no_adapter_without_lora(tmp_path: Path, llama: Backbone) -> None:
    with pytest.raises(ConfigError, match="no LoRA"):
        policy.save(tmp_path / "policy", llama, llama.tokenizer(), {}, "adapter")
