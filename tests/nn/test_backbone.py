"""Backbones: trees equal unshared sequences, adapters merge, unusable settings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from conftest import COMPARISONS, FAMILIES, encoder
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    Cohere2Config,
    FalconH1Config,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MiniCPM3Config,
    MixtralConfig,
    ModernBertDecoderConfig,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    RecurrentGemmaConfig,
)

from prefrep.data.encode import EncodeConfig
from prefrep.data.trees import Datum, TreeBatch, collate
from prefrep.errors import CheckpointError, ConfigError
from prefrep.functional.trees import tree_mask
from prefrep.io.folder import load, save
from prefrep.nn.attention import in_blocks
from prefrep.nn.backbone import Backbone, LoRA, load_tokenizer
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import BTHead
from prefrep.scoring import Scorer


def hidden(backbone: Backbone, batch: TreeBatch) -> torch.Tensor:
    with torch.no_grad():
        return backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded).flatten(0, 1)


TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def tiny(folder: Path, config: Any) -> str:
    """A random model in a folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def data_of(path: str) -> list[Datum]:
    return [datum for _, datum in encoder(path).encode(COMPARISONS) if datum is not None]


@pytest.mark.parametrize("row_tokens", [1, 200, 4096])
def test_trees_equal_every_sequence_alone(family: Backbone, row_tokens: int) -> None:
    """The oracle is one unpadded sequence at a time, with no mask at all."""
    data = data_of(family.path)
    assert family.supports_trees()
    batch = collate(data, pad_id=0, row_tokens=row_tokens)
    got = hidden(family, batch)
    rank = 0
    for datum in data:
        for tree in datum.trees:
            for ids in tree.sequences:
                with torch.no_grad():
                    alone = family.transformer(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).last_hidden_state[0]
                torch.testing.assert_close(got[batch.end[rank]], alone[-1], atol=1e-4, rtol=0)
                torch.testing.assert_close(got[batch.prompt_end[rank]], alone[tree.prompt - 1], atol=1e-4, rtol=0)
                rank += 1
    assert rank == len(batch.end)


def test_padded_layout_equals_trees(family: Backbone) -> None:
    data = data_of(family.path)
    trees, padded = collate(data, pad_id=0), collate(data, pad_id=3, layout="padded")
    a, b = hidden(family, trees), hidden(family, padded)
    torch.testing.assert_close(a[trees.end], b[padded.end], atol=1e-4, rtol=0)
    torch.testing.assert_close(a[trees.prompt_end], b[padded.prompt_end], atol=1e-4, rtol=0)


def test_windows_matter_in_these_tests() -> None:
    """Gemma's sliding window is shorter than the sequences above; a mask without it gives other numbers."""
    backbone = Backbone("bundled:tiny-gemma2").eval()
    batch = collate(data_of(backbone.path), pad_id=0)
    right = hidden(backbone, batch)[batch.end]
    backbone.model.config.sliding_window = None
    assert (hidden(backbone, batch)[batch.end] - right).abs().max() > 1e-3


def test_a_mask_that_is_ignored_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Backbone("bundled:tiny-llama", attention="sdpa").supports_trees()
    monkeypatch.setattr(
        "prefrep.nn.backbone.masks", lambda config, tree, branch, positions, **options: tree_mask(tree, torch.zeros_like(branch), positions)
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


@pytest.mark.parametrize(("long", "room"), [(4.0, 8), (1.0, 512)])
def test_longrope_reads_what_does_not_change_its_distances(long: float, room: int, tmp_path: Path) -> None:
    """Beyond the first 8 positions a neighbour in the batch decides on the factors, where short and long ones differ."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [long] * 8, "original_max_position_embeddings": 8}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    backbone = Backbone(tiny(tmp_path, Phi3Config(**TINY, rope_parameters=rope, original_max_position_embeddings=8))).eval()
    assert backbone.room == room

    def beside(length: int) -> torch.Tensor:
        ids, positions = torch.arange(3, 3 + length)[None].repeat(2, 1), torch.arange(length)[None].repeat(2, 1)
        tree = torch.tensor([[0] * 6 + [-1] * (length - 6), [1] * length])
        with torch.no_grad():
            return backbone(ids, positions, tree, torch.zeros_like(tree), padded=True)[0, 5]

    torch.testing.assert_close(beside(8), beside(6), atol=1e-5, rtol=0)
    assert torch.allclose(beside(9), beside(6), atol=1e-5, rtol=0) == (room > 8)


@pytest.mark.parametrize(("experts", "leak", "trees"), [(True, 1e-6, True), (True, 1e-3, False), (False, 1e-6, False)])
def test_experts_may_round_otherwise(experts: bool, leak: float, trees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token that is read moves all states a little."""
    config = MixtralConfig(**TINY, num_local_experts=4) if experts else LlamaConfig(**TINY)
    backbone, read = Backbone(tiny(tmp_path, config)), Backbone._read

    def moved(self: Backbone, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return read(self, ids, *rest, **more) * (1 + leak * ids.float().mean() / 8)

    monkeypatch.setattr(Backbone, "_read", moved)
    assert backbone.supports_trees() == trees


def test_a_head_that_would_be_random_is_not_read(tmp_path: Path) -> None:
    """A classifier has no language-model head: a preference model needs none, a policy does."""
    config = AutoConfig.from_pretrained(resolve("bundled:tiny-llama"), tie_word_embeddings=False)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    assert backbone.supports_trees()
    with pytest.raises(CheckpointError, match="no language-model head"):
        backbone.train_output()


@pytest.mark.parametrize(
    "config",
    [
        lambda: GraniteConfig(**TINY, logits_scaling=13.0),
        lambda: Cohere2Config(**TINY, logit_scale=0.0625),
        lambda: MiniCPM3Config(
            **TINY, dim_model_base=4, q_lora_rank=16, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8
        ),
        lambda: FalconH1Config(**TINY, lm_head_multiplier=0.3, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8),
        lambda: RecurrentGemmaConfig(**TINY, lru_width=32, logits_soft_cap=2.0),
    ],
    ids=["granite", "cohere2", "minicpm3", "falcon_h1", "recurrent_gemma"],
)
def test_logits_are_those_of_the_model(config: Any, tmp_path: Path) -> None:
    """Families that scale or cap the numbers of their output layer."""
    backbone = Backbone(tiny(tmp_path, config())).eval()
    state = torch.get_rng_state()
    backbone.train_output()
    assert torch.equal(torch.get_rng_state(), state), "what is drawn after it stays as it was"
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        read, expected = backbone.transformer(input_ids=ids, use_cache=False).last_hidden_state, backbone.model(ids, use_cache=False).logits
        torch.testing.assert_close(backbone.logits(read), expected, atol=1e-6, rtol=1e-5)


def test_logits_of_ordinary_models_are_their_output_layer(family: Backbone) -> None:
    family.check_logits()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        read = family.transformer(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.equal(family.logits(read), family.model(ids, use_cache=False).logits)


def test_an_output_layer_with_more_in_front_is_refused(tmp_path: Path) -> None:
    backbone = Backbone(tiny(tmp_path, ModernBertDecoderConfig(**TINY, cls_token_id=1, sep_token_id=2, local_attention=8)))
    with pytest.raises(ConfigError, match="ModernBertDecoderForCausalLM does more"):
        backbone.train_output()


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
    ids, positions, tree = torch.arange(3, 12)[None], torch.arange(9)[None], torch.zeros(1, 9, dtype=torch.long)
    with torch.no_grad():
        read = backbone(ids, positions, tree, tree, padded=True)
        assert read.shape[-1] == backbone.hidden_size == width
        torch.testing.assert_close(backbone.logits(read), backbone.model(ids, use_cache=False).logits, atol=1e-5, rtol=1e-5)


def test_routers_get_no_adapters(tmp_path: Path) -> None:
    """Phi-MoE's is a linear layer that returns two things."""
    backbone = Backbone(tiny(tmp_path, PhimoeConfig(**TINY, num_local_experts=4)), lora=LoRA(rank=2))
    assert backbone.supports_trees()
    adapted = {name for name, _ in backbone.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 2 * 4 and all(".self_attn." in name for name in adapted)


def test_weights_from_a_gguf_file(tmp_path: Path) -> None:
    """They train, are saved as any model's, and are read again where only the base is named."""
    folder = tmp_path / "base"
    own = write_gguf(folder)
    backbone = Backbone(str(folder), gguf="tiny.gguf", lora=LoRA(rank=2)).eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(ids).logits, own(ids).logits, atol=1e-4, rtol=0)
    head = BTHead(backbone.hidden_size)
    for weights in ("full", "reference"):
        save(tmp_path / weights, backbone, head, 1.0, EncodeConfig(), backbone.tokenizer(), {}, weights)  # type: ignore[arg-type]
        scorer = Scorer(load(tmp_path / weights))
        assert next(scorer.compare(COMPARISONS)) == pytest.approx(next(Scorer(load(tmp_path / "full")).compare(COMPARISONS)), abs=1e-5)


def write_gguf(folder: Path) -> LlamaForCausalLM:
    """A Llama of one layer as a GGUF file, in the layout of llama.cpp: queries and keys with their rotary halves interleaved."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("bundled:tiny-llama")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        inner = name.removeprefix("model.layers.0.").removesuffix(".weight")
        if inner.endswith(("q_proj", "k_proj")):
            tensor = tensor.view(2, 2, 8, 32).transpose(1, 2).reshape(32, 32)
        block = "blk.0." if name.startswith("model.layers") else ""
        writer.add_tensor(f"{block}{names[inner]}.weight", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_kernel_that_leaks_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `trees` takes all branches for one, `auto` goes on to sdpa; asked for by name, it is found out."""
    monkeypatch.setattr(
        "prefrep.nn.backbone.in_blocks",
        lambda config, tree, branch, positions, numbers: in_blocks(config, tree, torch.zeros_like(branch), positions, numbers),
    )
    backbone = Backbone("bundled:tiny-llama")
    assert backbone.supports_trees() and backbone.attention == "sdpa"
    assert not Backbone("bundled:tiny-llama", attention="trees").supports_trees()


def gradients(backbone: Backbone, batch: TreeBatch) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    read = backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded).flatten(0, 1)[batch.end]
    (read * torch.linspace(-1, 1, read.numel()).view_as(read)).sum().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kept", [0, 2**26])
def test_kernels_agree_forward_and_backward(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense masks through transformers' eager attention are the reference; weights are kept for the backward pass or computed again."""
    monkeypatch.setattr("prefrep.nn.attention.KEPT", kept)
    monkeypatch.setattr("prefrep.functional.blocks.QUERIES", 5)
    ours, reference = Backbone(f"bundled:tiny-{name}", attention="trees"), Backbone(f"bundled:tiny-{name}", attention="eager")
    batch = collate(data_of(ours.path), pad_id=0, row_tokens=200)
    torch.testing.assert_close(hidden(ours, batch)[batch.end], hidden(reference, batch)[batch.end], atol=1e-5, rtol=1e-5)
    got, expected = gradients(ours, batch), gradients(reference, batch)
    assert got.keys() == expected.keys() and len(got) > 10
    for parameter, gradient in expected.items():
        torch.testing.assert_close(got[parameter], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "gpt_neox"])  # what transformers lets run on it, without a soft cap
def test_flex_attention_agrees(name: str) -> None:
    flex, dense = (Backbone(f"bundled:tiny-{name}", attention=kernel).eval() for kernel in ("flex_attention", "eager"))
    batch = collate(data_of(flex.path), pad_id=0, row_tokens=200)
    with torch.compiler.set_stance("force_eager"):  # the same numbers without a compiler
        assert flex.supports_trees()
        got = hidden(flex, batch)[batch.end]
    torch.testing.assert_close(got, hidden(dense, batch)[batch.end], atol=1e-4, rtol=0)


def test_auto_takes_the_kernel_for_trees(family: Backbone) -> None:
    assert family.attention == "trees"


def test_a_compiled_layer_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as the compiler does it, without generating code; two batches of other shapes, training and not."""
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiling(self, backend="aot_eager", **options))
    plain, compiled = Backbone("bundled:tiny-llama"), Backbone("bundled:tiny-llama", compile=True)
    data = data_of(plain.path)
    for batch in (collate(data, pad_id=0, row_tokens=200), collate(data[:2], pad_id=0, row_tokens=60)):
        expected = gradients(plain, batch)
        for parameter, gradient in gradients(compiled, batch).items():
            torch.testing.assert_close(gradient, expected[parameter], atol=1e-5 * float(expected[parameter].abs().max()), rtol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(hidden(compiled, batch)[batch.end], hidden(plain, batch)[batch.end], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kernel_in_bf16_is_the_kernel_in_fp32_rounded(checkpointing: bool) -> None:
    exact, rounded = Backbone("bundled:tiny-llama"), Backbone("bundled:tiny-llama", gradient_checkpointing=checkpointing)
    batch = collate(data_of(exact.path), pad_id=0, row_tokens=200)
    expected = gradients(exact, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(rounded, batch)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=0.03 * float(gradient.abs().max()), rtol=0.1, msg=parameter)
    assert any(not torch.equal(found[name], gradient) for name, gradient in expected.items())


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


def test_lora_trains_adapters_alone() -> None:
    names = [name for name, parameter in Backbone("bundled:tiny-llama", lora=LoRA()).named_parameters() if parameter.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


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
    ids, positions, tree = torch.arange(3, 12)[None], torch.arange(9)[None], torch.zeros(1, 9, dtype=torch.long)
    read = [backbone.train(mode)(ids, positions, tree, tree, padded=True) for mode in (True, True, False)]
    assert torch.equal(read[0], read[1]) and torch.equal(read[1], read[2])


def test_dropout_of_adapters_stays() -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2, dropout=0.5)).train()
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = collate(data_of(backbone.path), pad_id=0)
    assert not torch.equal(hidden(backbone, batch), hidden(backbone, batch))


def test_frozen_trains_nothing() -> None:
    backbone = Backbone("bundled:tiny-llama", frozen=True).train()
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"frozen": True, "lora": LoRA()}, "exclude each other"),
        ({"quantize": "4bit", "lora": LoRA()}, "CUDA"),
    ],
)
def test_settings_that_cannot_go_together(options: dict[str, object], sentence: str) -> None:
    if "quantize" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=sentence):
        Backbone("bundled:tiny-llama", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["./no/such/folder", "bundled:gpt5"])
def test_a_missing_model_is_named(path: str) -> None:
    with pytest.raises(CheckpointError, match=path.removeprefix("bundled:")):
        Backbone(path)
