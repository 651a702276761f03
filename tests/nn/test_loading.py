"""Loading: from safetensors and GGUF; what is missing is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import COMPARISONS
from transformers import AutoConfig, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError
from prefrep.io.folder import load, save
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import BTHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.scoring import Scorer


def test_a_head_that_would_be_random_is_not_read(tmp_path: Path) -> None:
    """A classifier has no language-model head: a preference model needs none, a policy does."""
    config = AutoConfig.from_pretrained(resolve("bundled:tiny-llama"), tie_word_embeddings=False)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    assert backbone.supports_trees()
    with pytest.raises(CheckpointError, match="no language-model head"):
        backbone.train_output()


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


@pytest.mark.parametrize("path", ["./no/such/folder", "bundled:gpt5"])
def test_a_missing_model_is_named(path: str) -> None:
    with pytest.raises(CheckpointError, match=path.removeprefix("bundled:")):
        Backbone(path)
