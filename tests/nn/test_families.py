"""Model families: every row of the table is needed by a tiny random model of its family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import encoders
import pytest
import torch
from conftest import TINY, tiny
from transformers import (
    BloomConfig,
    Cohere2Config,
    DbrxConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    HyperCLOVAXConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MiniCPM3Config,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen2MoeConfig,
    RecurrentGemmaConfig,
)

from prefrep.errors import ConfigError
from prefrep.nn import families
from prefrep.nn.backbone import Backbone
from prefrep.nn.families import QUIRKS, Quirk
from prefrep.nn.lora import LoRA


def opt(**options: Any) -> OPTConfig:
    return OPTConfig(
        **{"vocab_size": 300, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32,
           "init_std": 0.2, "dropout": 0.0, **options}
    )  # fmt: skip


def longrope(long: float) -> Phi3Config:
    factors = {"short_factor": [1.0] * 8, "long_factor": [long] * 8, "original_max_position_embeddings": 8}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    return Phi3Config(**TINY, rope_parameters=rope, original_max_position_embeddings=8)


MLA = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
SCALED: dict[str, Callable[[], Any]] = {
    "granite": lambda: GraniteConfig(**TINY, logits_scaling=13.0),
    "minicpm3": lambda: MiniCPM3Config(**TINY, dim_model_base=4, **MLA),
    "hyperclovax": lambda: HyperCLOVAXConfig(**TINY, logits_scaling=0.3),
    "cohere": lambda: Cohere2Config(**TINY, logit_scale=0.0625),
    "falcon_h1": lambda: FalconH1Config(**TINY, lm_head_multiplier=0.3, **MAMBA),
    "gemma2": lambda: Gemma2Config(**TINY, head_dim=16, final_logit_softcapping=2.0),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(**TINY, lru_width=32, logits_soft_cap=2.0),
}


@pytest.mark.parametrize("family", SCALED)
def test_logits_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    """Families that scale or cap the numbers of their output layer."""
    backbone = Backbone(tiny(tmp_path, SCALED[family]())).eval()
    state = torch.get_rng_state()
    backbone.train_output()
    assert torch.equal(torch.get_rng_state(), state), "what is drawn after it stays as it was"
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        read, expected = backbone.transformer(input_ids=ids, use_cache=False).last_hidden_state, backbone.model(ids, use_cache=False).logits
        torch.testing.assert_close(backbone.logits(read), expected, atol=1e-6, rtol=1e-5)


# ---- what a row is good for: each check holds with it and fails without


def read(backbone: Backbone) -> torch.Tensor:
    ids, positions, until = torch.arange(3, 12)[None], torch.arange(9)[None], torch.full((1, 9), 9)
    return backbone(ids, positions, until, padded=True).detach()  # type: ignore[no-any-return]


def knows_its_logits(path: str) -> bool:
    try:
        Backbone(path).check_logits()
    except ConfigError:
        return False
    return True


def falls_back_to_eager(path: str) -> bool:
    return Backbone(path)._kernels == ["trees", "eager"]


def knows_its_width(path: str) -> bool:
    backbone = Backbone(path)
    return backbone.hidden_size == read(backbone).shape[-1]


def stops_at_the_original_length(path: str) -> bool:
    return Backbone(path).room == 8


def reads_as_much_as_it_says(path: str) -> bool:
    backbone = Backbone(path).eval()

    def reads(length: int) -> bool:
        ids, until = torch.arange(length)[None] % 200 + 3, torch.full((1, length), length)
        try:
            backbone(ids, torch.arange(length)[None], until, padded=True)
        except (IndexError, RuntimeError):
            return False
        return True

    return reads(80) if backbone.room is None else reads(backbone.room) and not reads(backbone.room + 1)


def may_round(path: str) -> bool:
    """Every token that is read moves all states a little, as experts may."""
    forward = Backbone._read

    def moved(self: Backbone, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return forward(self, ids, *rest, **more) * (1 + 1e-6 * ids.float().mean() / 8)

    with patch.object(Backbone, "_read", moved):
        return Backbone(path).supports_trees()


def trains_as_it_evaluates(path: str) -> bool:
    backbone = Backbone(path)
    expected = read(backbone.train(False))
    return all(torch.equal(read(backbone.train()), expected) for _ in range(4))


def reads_with_adapters(path: str) -> bool:
    return Backbone(path, lora=LoRA(rank=2)).supports_trees()


Check = Callable[[str], bool]
# By family and effect or attribute: a configuration, or an encoder of `encoders`, and the check.
NEEDS: dict[tuple[str, str], tuple[Callable[[], Any] | str, Check]] = {
    **{(family, effect): (config, knows_its_logits) for family, config in SCALED.items()
       for effect in ("logit factor", "logit divisor", "logit cap")},
    ("gemma3", "attention cap"): (lambda: Gemma3TextConfig(**TINY, head_dim=16, attn_logit_softcapping=2.0), falls_back_to_eager),
    ("opt", "hidden size"): (lambda: opt(word_embed_proj_dim=16, do_layer_norm_before=False), knows_its_width),
    ("phi3", "rope"): (lambda: longrope(4.0), stops_at_the_original_length),
    ("phimoe", "experts"): (lambda: PhimoeConfig(**TINY, num_local_experts=4), may_round),
    ("qwen2_moe", "experts"): (lambda: Qwen2MoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
                                                      shared_expert_intermediate_size=16), may_round),
    ("deepseek", "experts"): (lambda: LlamaConfig(**TINY, n_routed_experts=4), may_round),  # stands in for remote code
    ("opt", "dropout"): (lambda: opt(dropout=0.5), trains_as_it_evaluates),
    ("opt", "layerdrop"): (lambda: opt(layerdrop=0.5), trains_as_it_evaluates),
    ("dbrx", "dropout"): (lambda: DbrxConfig(
        d_model=32, n_heads=2, n_layers=2, max_seq_len=64, vocab_size=300, resid_pdrop=0.5, initializer_range=0.2,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={"ffn_hidden_size": 32, "hidden_size": 32}), trains_as_it_evaluates),
    ("mixtral", "noise"): (lambda: MixtralConfig(**TINY, num_local_experts=4, router_jitter_noise=0.5), trains_as_it_evaluates),
    ("phimoe", "noise"): (lambda: PhimoeConfig(**TINY, num_local_experts=4, input_jitter_noise=0.5), trains_as_it_evaluates),
    ("phimoe", "router mode"): (lambda: PhimoeConfig(**TINY, num_local_experts=4, router_jitter_noise=0.9), trains_as_it_evaluates),
    ("deberta", "relative positions"): ("deberta-v2", reads_as_much_as_it_says),
    **{(family, "position offset"): (family, reads_as_much_as_it_says) for family in ("roberta", "xlm-roberta", "camembert")},
    ("phimoe", "router class"): (lambda: PhimoeConfig(**TINY, num_local_experts=4), reads_with_adapters),
}  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: f"{quirk.family}-{quirk.attribute}")
def test_every_row_is_needed(quirk: Quirk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, check = NEEDS.get((quirk.family, quirk.attribute)) or NEEDS[quirk.family, quirk.effect]
    if isinstance(config, str):
        encoders.folder(tmp_path, config, max_position_embeddings=64)
        path = str(tmp_path)
    else:
        path = tiny(tmp_path, config())
    assert check(path)
    monkeypatch.setattr(families, "QUIRKS", tuple(row for row in QUIRKS if row is not quirk))
    torch.manual_seed(0)
    assert not check(path)


@pytest.mark.parametrize(("long", "room"), [(4.0, 8), (1.0, 512)])
def test_longrope_reads_what_does_not_change_its_distances(long: float, room: int, tmp_path: Path) -> None:
    """Beyond the first 8 positions a neighbour in the batch decides on the factors, where short and long ones differ."""
    backbone = Backbone(tiny(tmp_path, longrope(long))).eval()
    assert backbone.room == room

    def beside(length: int) -> torch.Tensor:
        ids, positions = torch.arange(3, 3 + length)[None].repeat(2, 1), torch.arange(length)[None].repeat(2, 1)
        until = torch.tensor([[6] * 6 + [0] * (length - 6), [length] * length])
        with torch.no_grad():
            return backbone(ids, positions, until, padded=True)[0, 5]

    torch.testing.assert_close(beside(8), beside(6), atol=1e-5, rtol=0)
    assert torch.allclose(beside(9), beside(6), atol=1e-5, rtol=0) == (room > 8)


@pytest.mark.parametrize(
    ("config", "width", "trees"),
    [
        (lambda: MambaConfig(vocab_size=300, hidden_size=32, state_size=8, num_hidden_layers=2), 32, False),
        (lambda: Llama4TextConfig(**TINY, head_dim=16, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=16), 32, False),
        (lambda: OPTConfig(vocab_size=300, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
                           do_layer_norm_before=False), 16, True),
    ],
    ids=["mamba", "llama4", "opt-350m"],
)  # fmt: skip
def test_models_that_are_built_otherwise_are_read(config: Any, width: int, trees: bool, tmp_path: Path) -> None:
    """No heads, another name for the transformer and attention within chunks, states of another width than the layers'."""
    backbone = Backbone(tiny(tmp_path, config())).eval()
    assert backbone.supports_trees() == trees
    backbone.check_logits()
    ids, positions, until = torch.arange(3, 12)[None], torch.arange(9)[None], torch.full((1, 9), 9)
    with torch.no_grad():
        read = backbone(ids, positions, until, padded=True)
        assert read.shape[-1] == backbone.hidden_size == width
        torch.testing.assert_close(backbone.logits(read), backbone.model(ids, use_cache=False).logits, atol=1e-5, rtol=1e-5)


def test_routers_get_no_adapters(tmp_path: Path) -> None:
    """Phi-MoE's is a linear layer that returns two things."""
    backbone = Backbone(tiny(tmp_path, PhimoeConfig(**TINY, num_local_experts=4)), lora=LoRA(rank=2))
    assert backbone.supports_trees()
    adapted = {name for name, _ in backbone.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 2 * 4 and all(".self_attn." in name for name in adapted)


@pytest.mark.parametrize(
    "config",
    [
        lambda: OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32,
                          dropout=0.5, attention_dropout=0.5, layerdrop=0.5),
        lambda: BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.5, attention_dropout=0.5),
        lambda: PhimoeConfig(**TINY, num_local_experts=4, input_jitter_noise=0.5),
    ],
    ids=["opt", "bloom", "phimoe"],
)  # fmt: skip
def test_training_mode_reads_as_evaluation_does(config: Any, tmp_path: Path) -> None:
    backbone = Backbone(tiny(tmp_path, config()))
    ids, positions, until = torch.arange(3, 12)[None], torch.arange(9)[None], torch.full((1, 9), 9)
    read = [backbone.train(mode)(ids, positions, until, padded=True) for mode in (True, True, False)]
    assert torch.equal(read[0], read[1]) and torch.equal(read[1], read[2])
