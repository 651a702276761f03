"""Adapter folders of peft, as TRL's RewardTrainer leaves them: LoRA on a base, and the head of a sequence classifier."""

from __future__ import annotations

import json
import logging
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefrep.errors import CheckpointError
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading
from prefrep.io.language_model import rebuilt
from prefrep.io.seqcls import BIAS, SCORE, bradley_terry, reading_of
from prefrep.io.shards import find_file
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import load_tokenizer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
log = logging.getLogger(__name__)

# What a folder may set. Other settings are about training alone (_SILENT), or change what an adapter computes and are refused.
_KEYS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "target_parameters", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "fan_in_fan_out", "bias", "layers_to_transform", "layers_pattern",
)  # fmt: skip
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version", "inference_mode", "modules_to_save",
    "init_lora_weights", "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size",
    "ensure_weight_tying", "runtime_config",
}  # fmt: skip
_HEAD = re.compile(r"(?:^|\.)score\.(?:modules_to_save\.)?(?:default\.)?(weight|bias)$")


def read(
    path: str | Path,
    *,
    max_length: int = 2048,
    **options: Any,
) -> PreferenceModel:
    """Read a LoRA adapter of a sequence classifier as a Bradley-Terry model with tau 1, merged into its base.

    Args:
        path: Local folder or hub id of the adapter, with safetensors. Its base is read from the path or hub id that it names.
        max_length: Maximum sequence length in tokens.
        **options: See `Reading`; `dtype` None: as the base is stored. `build` gets the merged weights.

    Raises:
        CheckpointError: The adapter is of another kind or has no head, or its base cannot be read or does not fit.
    """
    folder, reading = str(path), Reading(**options)
    about = read_adapter_config(folder, reading.revision)
    base, base_revision = _base(folder, about)
    of_base = replace(reading, revision=base_revision, build=None)
    tensors = _tensors(folder, reading.revision)
    head = {match[1]: name for name in tensors if (match := _HEAD.search(name))}
    found = {f"score.{kind}": tensors.pop(name).float() for kind, name in head.items()}
    if strange := [name for name in tensors if ".score." in name or name.startswith("score.")]:
        raise CheckpointError(
            f"{folder}: {strange[0]} adapts the head instead of holding it; merge the adapter with peft, use --from seqcls"
        )
    found = found or of_base.tensors(base, (SCORE, BIAS))
    config = of_base.config(base)
    width = config.get_text_config().hidden_size
    if (shapes := {name: list(tensor.shape) for name, tensor in found.items()}) != {SCORE: [1, width]}:
        raise CheckpointError(
            f"{folder}: neither the adapter nor its base {base} holds a head {SCORE} [1, {width}] without bias (found {shapes or 'none'}), "
            "so it was random in training; train with modules_to_save: [score]"
        )
    backbone = of_base.backbone(base)
    _merge(folder, backbone, about, tensors)
    if reading.build is not None:
        backbone = rebuilt(reading.build, {"path": base, "revision": base_revision, "gguf": None}, backbone.merged_state(), folder)
    tokenizer, pad = _tokenizer(folder, reading, backbone, config)
    encode = reading_of(folder, tokenizer, pad, max_length)
    model = bradley_terry(reading, backbone, found[SCORE], encode, tokenizer, "peft adapter")
    model.recipe["adapter"] = folder
    return model


def read_adapter_config(path: str, revision: str | None) -> dict[str, Any]:
    """Return the content of `adapter_config.json`.

    Args:
        path: Local folder or hub id of an adapter.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: There is none, or it is no JSON object.
    """
    file = find_file(path, CONFIG, revision)
    try:
        about = json.loads(file.read_text()) if file else None
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: no readable {CONFIG}, so this is not an adapter folder of peft")
    return about


def has_adapter(path: str, revision: str | None) -> bool:
    """Return whether there is an adapter of peft at a local folder or hub id."""
    return find_file(path, CONFIG, revision) is not None


def _base(folder: str, about: dict[str, Any]) -> tuple[str, str | None]:
    """Return path and revision of the base of an adapter whose effect is that of LoRA on this base."""
    if about.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder}: a {about.get('peft_type')} adapter; merge it with peft, save the classifier and use --from seqcls"
        )
    if about.get("init_lora_weights") not in (True, False, None, "gaussian", "eva", "orthogonal"):
        raise CheckpointError(
            f"{folder}: init_lora_weights {about['init_lora_weights']} has changed the base; merge the adapter with peft, save the "
            "classifier and use --from seqcls"
        )
    if strange := [key for key, value in about.items() if value and key not in (*_KEYS, *_SILENT)]:
        raise CheckpointError(f"{folder}: a LoRA with {strange[0]}; merge the adapter with peft, save the classifier and use --from seqcls")
    base = about.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder}: {CONFIG} names no base (base_model_name_or_path); name it there")
    log.info("%s: an adapter on %s", folder, base)
    return base, about.get("revision")


def _tensors(folder: str, revision: str | None) -> dict[str, Tensor]:
    file = find_file(folder, WEIGHTS, revision)
    if file is None:
        raise CheckpointError(
            f"{folder}: no {WEIGHTS}; pickles (.bin) are never read, except those in a local folder by prefrep export --from peft"
        )
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot read {WEIGHTS} ({error}); download the adapter again") from error


def _merge(folder: str, backbone: Backbone, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Merge an adapter into the language model, in place.

    Raises:
        CheckpointError: Adapter and base do not fit.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    try:
        saved = [name for name in about.get("modules_to_save") or [] if name not in ("score", "classifier")]
        config = LoraConfig(**{key: about[key] for key in _KEYS if key in about}, modules_to_save=saved or None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it has renamed
            adapted = PeftModel(backbone.model, config)
        missing = get_peft_model_state_dict(adapted).keys() - tensors.keys()
        result: Any = set_peft_model_state_dict(adapted, tensors)
        adapted.merge_and_unload()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: peft cannot put the adapter on {backbone.path} ({str(error)[:200]}); is this its base?"
        ) from error
    if strange := [*result.unexpected_keys, *sorted(missing)]:
        raise CheckpointError(f"{folder}: {strange[0]} does not fit the base {backbone.path}; is this its base?")
    backbone.requires_grad_(False)


def _tokenizer(folder: str, reading: Reading, backbone: Backbone, config: Any) -> tuple[PreTrainedTokenizerBase, int | None]:
    """Return the tokenizer and the pad id of the classifier: the adapter's own ones, which TRL saves, or else those of the base."""
    if find_file(folder, "tokenizer_config.json", reading.revision) is None:
        return backbone.tokenizer(), config.get_text_config().pad_token_id
    tokenizer = load_tokenizer(folder, reading.trust_remote_code, reading.revision)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return tokenizer, None if pad is None else int(pad)
