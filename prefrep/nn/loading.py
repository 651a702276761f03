"""Load language models and tokenizers from a local folder, the Hugging Face Hub or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from prefrep.errors import CheckpointError
from prefrep.nn.bundled import resolve
from prefrep.nn.families import caps_attention
from prefrep.nn.quietly import quietly

DType = Literal["float32", "bfloat16", "float16"]


class CausalLM(NamedTuple):
    """A loaded language model.

    Args:
        model: The model of `transformers`.
        random_output: Whether the checkpoint has no output layer, so that the one of `model` is randomly initialised.
    """

    model: Any
    random_output: bool


def load_tokenizer(
    path: str, trust_remote_code: bool = False, revision: str | None = None, gguf: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model from its folder or, if the folder has none, from its GGUF file.

    Args:
        path: `bundled:...`, local folder or hub id.
        trust_remote_code: Passed to `transformers`.
        revision: Branch, tag or commit of a hub id.
        gguf: Name of a GGUF file inside the folder.

    Raises:
        CheckpointError: No tokenizer can be loaded.
    """
    place, common = resolve(path), {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **common)
        except (OSError, ValueError):
            if gguf is None:
                raise
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=gguf, **common)
    except (OSError, ValueError) as error:
        raise CheckpointError(_not_found(path, "tokenizer", error)) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_causal(
    path: str,
    dtype: str,
    attention: str,
    quantize: str = "none",
    trust_remote_code: bool = False,
    revision: str | None = None,
    gguf: str | None = None,
) -> CausalLM:
    """Load a causal language model from safetensors or GGUF, never from pickles.

    Args:
        path: `bundled:...`, local folder or hub id.
        dtype: Name of the torch dtype of the weights.
        attention: Attention kernel; `auto` selects sdpa if the model supports it, else eager.
        quantize: `none` or `4bit`.
        trust_remote_code: Passed to `transformers`.
        revision: Branch, tag or commit of a hub id.
        gguf: Name of a GGUF file inside the folder.

    Raises:
        CheckpointError: The model cannot be loaded, or its checkpoint is incomplete.
    """
    place = resolve(path)
    common = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        if gguf is None and attention == "auto" and caps_attention(AutoConfig.from_pretrained(place, **common)):
            attention = "eager"
        # None: transformers selects sdpa if the model supports it, else eager.
        options: dict[str, Any] = {"attn_implementation": None if attention == "auto" else attention, "dtype": getattr(torch, dtype)}
        if quantize == "4bit":
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
            )
        options |= {"use_safetensors": True} if gguf is None else {"gguf_file": gguf}
        with quietly():  # missing weights are checked below
            loaded: Any = AutoModelForCausalLM.from_pretrained(place, **common, **options, output_loading_info=True)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise CheckpointError(_not_found(path, "model", error)) from error
    model, info = loaded
    if gguf is not None:  # the weights are dequantised by now, but transformers would refuse to save a model with these attributes
        model.hf_quantizer = None
        model.is_quantized = False
        for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
            if hasattr(owner, name):
                delattr(owner, name)
    # transformers initialises missing tensors randomly. A classifier has no output layer, and few callers need one.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("lm_head"))
    if missing:
        raise CheckpointError(
            f"{path}: the checkpoint lacks {len(missing)} tensors ({missing[0]}, ...), which would be random; download the model again"
        )
    return CausalLM(model, random_output=bool(info["missing_keys"]))


def _not_found(path: str, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().exists():
        return f"{path}: no such folder, so there is no {what} to load; give a local folder, a hub id or bundled:smollm2-135m"
    return f"{path}: cannot load a {what} ({reason[:200]}); give a local folder with safetensors, a hub id or bundled:smollm2-135m"
