"""Probes: kernels that leak between branches and output layers that do more are found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, tiny
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    MixtralConfig,
    ModernBertDecoderConfig,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
)

from prefrep.errors import ConfigError
from prefrep.functional.trees import tree_mask
from prefrep.nn.backbone import Backbone
from prefrep.nn.masks import tree_biases
from prefrep.nn.probes import padding_shifts_positions


def test_a_mask_that_is_ignored_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Backbone("bundled:tiny-llama", attention="sdpa").supports_trees()
    monkeypatch.setattr(
        "prefrep.nn.backbone.dense_masks",
        lambda config, until, positions, **options: tree_mask(torch.full_like(until, until.shape[1]), positions),
    )
    assert not Backbone("bundled:tiny-llama", attention="sdpa").supports_trees()


@pytest.mark.parametrize("kind", ["mpt", "gpt-neo"])
def test_models_with_masks_of_their_own_read_no_trees(kind: str, tmp_path: Path) -> None:
    """MPT's ALiBi and GPT-Neo's windows go by places in the row: siblings push a branch away from its prompt."""
    torch.manual_seed(0)
    if kind == "mpt":
        MptForCausalLM(MptConfig(d_model=32, n_heads=2, n_layers=2, vocab_size=64, max_seq_len=64)).save_pretrained(tmp_path)
    else:
        layers: Any = [[["global", "local"], 1]]
        config = GPTNeoConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, attention_types=layers, max_position_embeddings=512)
        GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path)).eval()
    assert backbone.attention == "eager", "auto finds out that there is no other"
    assert not backbone.supports_trees()


def test_a_model_that_counts_positions_itself_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It honours the mask, and numbers the tokens of a row one after the other, whatever positions it is told."""
    read = Backbone._read

    def counting(self: Backbone, ids: torch.Tensor, positions: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return read(self, ids, torch.arange(positions.shape[1]).expand_as(positions), *rest, **more)

    monkeypatch.setattr(Backbone, "_read", counting)
    assert not Backbone("bundled:tiny-gpt2").supports_trees()


@pytest.mark.parametrize(("experts", "leak", "trees"), [(True, 1e-6, True), (True, 1e-3, False), (False, 1e-6, False)])
def test_experts_may_round_otherwise(experts: bool, leak: float, trees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token that is read moves all states a little."""
    config = MixtralConfig(**TINY, num_local_experts=4) if experts else LlamaConfig(**TINY)
    backbone, read = Backbone(tiny(tmp_path, config)), Backbone._read

    def moved(self: Backbone, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return read(self, ids, *rest, **more) * (1 + leak * ids.float().mean() / 8)

    monkeypatch.setattr(Backbone, "_read", moved)
    assert backbone.supports_trees() == trees


def test_a_kernel_that_leaks_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `trees` takes all branches for one, `auto` goes on to sdpa; asked for by name, it is found out."""
    monkeypatch.setattr(
        "prefrep.nn.backbone.tree_biases",
        lambda config, until, positions, dtype: tree_biases(config, torch.full_like(until, len(until)), positions, dtype),
    )
    backbone = Backbone("bundled:tiny-llama")
    assert backbone.supports_trees() and backbone.attention == "sdpa"
    assert not Backbone("bundled:tiny-llama", attention="trees").supports_trees()


def test_logits_of_ordinary_models_are_their_output_layer(family: Backbone) -> None:
    family.check_logits()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        read = family.transformer(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.equal(family.logits(read), family.model(ids, use_cache=False).logits)


def test_an_output_layer_with_more_in_front_is_refused(tmp_path: Path) -> None:
    backbone = Backbone(tiny(tmp_path, ModernBertDecoderConfig(**TINY, cls_token_id=1, sep_token_id=2, local_attention=8)))
    with pytest.raises(ConfigError, match="ModernBertDecoderForCausalLM transforms its hidden states"):
        backbone.train_output()


@pytest.mark.parametrize(("name", "shifts"), [("bundled:tiny-gpt2", True), ("bundled:tiny-llama", False), ("opt", False)])
def test_left_padding_shifts_learned_positions(name: str, shifts: bool, tmp_path: Path) -> None:
    """GPT-2 counts from the beginning of the row, OPT from the first token that the attention mask shows; Llama's are relative."""
    config = OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, init_std=0.2)
    backbone = Backbone(tiny(tmp_path, config) if name == "opt" else name).eval()
    with torch.no_grad():
        assert padding_shifts_positions(backbone.transformer, torch.device("cpu")) == shifts
