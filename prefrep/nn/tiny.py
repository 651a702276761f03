"""Tiny random language models of several families, with a byte-level tokenizer, for tests and trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox")

CHAT_TEMPLATE = (
    "{{ bos }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BOS = {"llama": "<s>", "gemma2": "<bos>", "gemma3": "<bos>"}  # in the template and added by the tokenizer, as in the original models
PAD = {"llama": "<pad>", "qwen2": "<|endoftext|>", "gemma2": "<pad>", "gemma3": "<pad>"}  # the others pad with their EOS
WINDOW = 8  # shorter than the sentences of the tests
MERGES = ["t h", "th e", "Ġ the", "i n", "in g", "e r", "o n", "a n", "Ġ a", "Ġ s", "l l", "o u", "Ġ t", "r e", ". .", "Ċ Ċ"]


def write(family: str, folder: Path) -> None:
    """Write a random model of two layers; its weights depend on the family alone, and the global random state does not change.

    Args:
        family: One of `FAMILIES`.
        folder: Existing folder to write to.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(family)
    config = _config(family, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs too
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, the special tokens of a chat, and a few merges, so that a token can span the border between texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [(first, second) for first, _, second in (merge.partition(" ") for merge in MERGES)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(first + second for first, second in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, pad = BOS.get(family), PAD.get(family)
    tokenizer.add_special_tokens([token for token in ("<|im_start|>", "<|im_end|>", bos, pad) if token])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    template = CHAT_TEMPLATE.replace("{{ bos }}", "{{ bos_token }}" if bos else "")
    names: dict[str, Any] = {name: token for name, token in {"bos_token": bos, "pad_token": pad or "<|im_end|>"}.items() if token}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=template, clean_up_tokenization_spaces=False, **names
    )


def _config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Return two layers, two heads and 32 dimensions; one sliding and one full layer if the family has windows.

    The initial weights are larger than usual: at 0.02 a model this small attends almost uniformly, and a wrong mask would hardly show.
    """
    from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    ids: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
    }
    size: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 2048,
    }
    grouped: dict[str, Any] = {**size, "num_key_value_heads": 1}
    gemma: dict[str, Any] = {**grouped, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
    gemma["layer_types"] = ["sliding_attention", "full_attention"]
    if family == "llama":
        return LlamaConfig(**grouped, **ids)
    if family == "qwen2":
        return Qwen2Config(**grouped, **ids, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    if family == "gemma2":
        return Gemma2Config(**gemma, **ids)
    if family == "gemma3":
        return Gemma3TextConfig(**gemma, **ids)
    if family == "gpt2":
        return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=2048, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids)
    return GPTNeoXConfig(**size, **ids)
