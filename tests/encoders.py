"""Tiny random encoders with a byte-level tokenizer, in the layouts of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "<|source|>", "<|candidate1|>", "<|candidate2|>")
SIZE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 1024,
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
# Names of transformers' classes, and the arguments of the configuration.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"type_vocab_size": 2}),
    "roberta": ("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1}),
    "camembert": ("Camembert", {"type_vocab_size": 1}),
    "deberta-v2": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "norm_rel_ebd": "layer_norm",
         "position_buckets": 16, "max_relative_positions": 32, "share_att_key": True, "type_vocab_size": 0},
    ),
    "modernbert": ("ModernBert", {"local_attention": 16, "global_attn_every_n_layers": 2}),
    "t5": ("T5", {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16, "relative_attention_num_buckets": 16,
                  "decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}),
}  # fmt: skip
ENCODERS = tuple(KINDS)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes behind the special tokens; texts are [CLS] text [SEP], pairs [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *alphabet])}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(list(SPECIAL))
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )


def model(kind: str, task: str = "Model", **more: Any) -> Any:
    """A random model of transformers, in evaluation mode."""
    name, options = KINDS[kind]
    words = tokenizer()
    shape = (SIZE if kind != "t5" else {}) | {"vocab_size": len(words), "num_labels": 1} | options | more
    config = getattr(transformers, f"{name}Config")(**shape)
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}{task}")(config).eval()
    for parameter in made.parameters():  # a head that begins at zero, or a norm at one, would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return made


def folder(path: Path, kind: str, task: str = "Model", **more: Any) -> Any:
    """Write a random model and its tokenizer; the model is returned."""
    made = model(kind, task, **more)
    made.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return made


def untied(path: Path, output: torch.Tensor | None = None) -> Any:
    """Give a T5 an output layer of its own, as Flan-T5's; the model is returned."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    random = torch.randn(tensors["shared.weight"].shape, generator=torch.Generator().manual_seed(5))
    save_file(tensors | {"lm_head.weight": random if output is None else output}, path / "model.safetensors", metadata={"format": "pt"})
    about = json.loads((path / "config.json").read_text())
    about.pop("scale_decoder_outputs", None)  # newer than the published files
    (path / "config.json").write_text(json.dumps(about | {"tie_word_embeddings": False}))
    return transformers.T5ForConditionalGeneration.from_pretrained(path).eval()
