"""Load language models and tokenizers from a local folder, the Hugging Face Hub or a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from prefrep.disk import expanded
from prefrep.errors import CheckpointError, ConfigError, first_line
from prefrep.nn.bidirectional import Pooling, encoder_class, reads_both_ways
from prefrep.nn.bundled import resolve
from prefrep.nn.families import caps_attention
from prefrep.nn.quietly import quietly

ALIASES = {"gpt_neox_reward_model": "gpt_neox"}  # names that only foreign code knows
DType = Literal["float32", "bfloat16", "float16"]
UNTRUSTED = (
    "Python code from its folder, which runs only if you trust it: read it, then add --trust-remote-code (of prefrep fit: "
    "--model.backbone.trust_remote_code true; in Python: trust_remote_code=True)"
)


class CausalLM(NamedTuple):
    """A loaded language model.

    Args:
        model: The model of `transformers`.
        random_output: Whether the checkpoint has no output layer, so that the one of `model` is randomly initialised.
    """

    model: Any
    random_output: bool


def device_of(name: str) -> str:
    """Return the device that a name means, `auto`: CUDA if there is one. Raises ConfigError: it cannot be used here."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three
        raise ConfigError(f"device '{device}' cannot be used here ({str(error).splitlines()[0]:.200}); use cpu or auto") from error
    return device


def config_of(place: str | Path, **common: Any) -> Any:
    """Return the configuration of a checkpoint; arguments and errors are those of `AutoConfig.from_pretrained`.

    Configurations of reward models with a `model_type` of their own are those of the language model that they are.
    """
    data, _ = PreTrainedConfig.get_config_dict(place, revision=common.get("revision"))
    if (name := ALIASES.get(data.get("model_type", ""))) is None:
        return AutoConfig.from_pretrained(place, **common)
    return CONFIG_MAPPING[name].from_dict(data | {"model_type": name})


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
        # Without files, transformers makes the tokenizer of the family with special tokens alone, or hardly more.
        if len(tokenizer) - len(tokenizer.added_tokens_decoder) < 5:
            raise ValueError("it has no vocabulary: there are no files of a tokenizer")
    except Exception as error:  # tokenizers raises bare exceptions, and a damaged file anything
        raise _unreadable(path, "tokenizer", error, trust_remote_code) from error
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
    pooling: Pooling = "auto",
    prefix: dict[str, str] | None = None,
) -> CausalLM:
    """Load a language model from safetensors or GGUF, never from pickles: a causal one, or an encoder.

    Args:
        path: `bundled:...`, local folder or hub id.
        dtype: Name of the torch dtype of the weights.
        attention: Attention kernel; `auto` selects sdpa if the model supports it, else eager.
        quantize: `none` or `4bit`.
        trust_remote_code: Passed to `transformers`.
        revision: Branch, tag or commit of a hub id.
        gguf: Name of a GGUF file inside the folder.
        pooling: What will be read of the model, which decides whether a T5 model needs its decoder.
        prefix: Names of tensors in the checkpoint, as regular expressions, and what they stand for.

    Raises:
        CheckpointError: The model cannot be loaded, or its checkpoint is incomplete.
    """
    place = resolve(path)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    kind, made = AutoModelForCausalLM, dict[str, Any]()
    try:
        if gguf is None:
            config = config_of(place, **common)
            if reads_both_ways(config):
                kind, made = encoder_class(config, pooling)
            if config.model_type in ALIASES.values():  # else transformers would not know the name that config.json has
                made = made | {"config": config}
        if gguf is None and attention == "auto":
            if "/" in str(config._attn_implementation):
                raise ValueError(f"its config.json names the attention {config._attn_implementation}, which is code from the hub")
            if caps_attention(config):
                attention = "eager"
        # None: transformers selects sdpa if the model supports it, else eager.
        options: dict[str, Any] = {"attn_implementation": None if attention == "auto" else attention, "dtype": getattr(torch, dtype)}
        if quantize == "4bit":
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
            )
        if gguf is None:
            _check_shards(place, revision)
        options |= {"use_safetensors": True} if gguf is None else {"gguf_file": gguf}
        options |= made | ({"key_mapping": prefix} if prefix else {})
        with quietly():  # missing weights are checked below
            loaded: Any = kind.from_pretrained(place, **common, **options, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged config.json makes transformers raise anything
        raise _unreadable(path, "model", error, trust_remote_code) from error
    model, info = loaded
    if prefix:  # else saving would give tensors the names that they had in the checkpoint
        model._weight_conversions = None
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
    return CausalLM(model, random_output=bool(info["missing_keys"]) or kind is not AutoModelForCausalLM)


def _check_shards(place: Path | str, revision: str | None) -> None:
    """Check that an index of shards, if there is one, names safetensors beside it: transformers reads whatever it names.

    Raises:
        ValueError: It names something else.
    """
    index = cached_file(place, "model.safetensors.index.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    for name in set(json.loads(Path(index).read_text())["weight_map"].values()) if index else ():
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise ValueError(f"its index of weights names {name!r:.80}, and only safetensors beside it are read")


def check_tokens(path: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model has an embedding for every token of its tokenizer.

    Special tokens that no text and no template of ours writes may be missing: Gemma 3's text models have no row for the token of images.

    Args:
        path: Where both were read, for the message.
        model: A backbone.
        tokenizer: The tokenizer.

    Raises:
        CheckpointError: There are tokens without an embedding.
    """
    rows = model.model.get_input_embeddings().weight.shape[0]
    template = str(tokenizer.chat_template or "")
    unused = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and number not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        and token.content not in template
    }  # fmt: skip
    beyond = [name for name, number in tokenizer.get_vocab().items() if number >= rows and number not in unused]
    if beyond:
        raise CheckpointError(
            f"{path}: the tokenizer has {len(beyond)} tokens without one of the {rows} embeddings of the model ({beyond[0]!r}); "
            "restore the tokenizer that belongs to the model"
        )


def _unreadable(path: str, what: str, error: Exception, trusted: bool) -> CheckpointError:
    if not trusted and "trust_remote_code" in str(error):
        return CheckpointError(f"{path}: the {what} is {UNTRUSTED}")
    return CheckpointError(_not_found(path, what, error))


def _not_found(path: str, what: str, error: Exception) -> str:
    if path.startswith((".", "/", "~")) and not expanded(path).exists():
        return f"{path}: no such folder, so there is no {what} to load; give a local folder, a hub id or bundled:smollm2-135m"
    return f"{path}: cannot load a {what} ({first_line(error)}); give a local folder with safetensors, a hub id or bundled:smollm2-135m"
