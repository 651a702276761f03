"""Models for benchmarks: bundled ones, folders, or random ones of a given size."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.common import QUICK_RESULTS
from prefrep.data.encode import EncodeConfig
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer

SMOLLM2, TINY, LLAMA_1B, LLAMA_WIDE = "bundled:smollm2-135m", "bundled:tiny-llama", "random:llama-1b", "random:llama-wide"
# Shapes of Llama 3.2 1B, of four of its layers, and something small to try the path with. All have the tiny models' tokenizer, of bytes,
# which is always there.
RANDOM = {
    LLAMA_1B: {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
               "vocab_size": 128256},
    LLAMA_WIDE: {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 512},
    "random:llama-tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                          "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip


def place(model: str) -> str:
    """Return the path of a model: `random:llama-1b` is initialised once and kept in a folder, other names are those of `Backbone`."""
    if model not in RANDOM:
        return model
    folder = QUICK_RESULTS / model.replace(":", "-")
    if not (folder / "tokenizer.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = load_tokenizer(TINY)
        torch.manual_seed(0)
        config = LlamaConfig(
            **RANDOM[model],
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def write_model(model: str, folder: Path) -> None:
    """Write an exported folder: a frozen language model with a random head."""
    backbone = Backbone(model, frozen=True)
    save(folder, backbone, GPMHead(backbone.hidden_size), 1.0, EncodeConfig(), backbone.tokenizer(), {})


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model with a pad token other than EOS: transformers' classifiers read the token before the first pad."""
    tokenizer = copy.deepcopy(load_tokenizer(place(model)))
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = next(token for token in reversed(tokenizer.all_special_tokens) if token != tokenizer.eos_token)
    return tokenizer


def classifier(model: str, dtype: torch.dtype) -> Any:
    """Return the model as a sequence classifier of transformers with one label and a random head."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it warns about the random head, which is replaced or irrelevant
    try:
        return AutoModelForSequenceClassification.from_pretrained(str(resolve(place(model))), num_labels=1, dtype=dtype)
    finally:
        transformers.logging.set_verbosity(verbosity)


def tie(model: nn.Module, to: nn.Module) -> None:
    """Share the parameters of one module with another by name, so that weights are in memory once."""
    for name, parameter in to.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)


def matrices(transformer: nn.Module, adapters: bool = False) -> int:
    """Return the number of weights in the linear layers of a transformer (without embeddings and norms): N of "6 N T FLOPs"."""
    linear = [(name, module) for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    return sum(module.weight.numel() for name, module in linear if ("lora_" in name) == adapters)
