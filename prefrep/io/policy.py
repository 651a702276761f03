"""Policies as folders that `AutoModelForCausalLM` loads: merged, or as an adapter that names its base."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from prefrep.errors import CheckpointError, ConfigError
from prefrep.io.replacing import replacing
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.quietly import quietly

PolicyWeights = Literal["merged", "adapter"]


def save(
    folder: Path | str, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, recipe: dict[str, Any], weights: PolicyWeights = "merged"
) -> None:
    """Write a policy, which replaces an older one atomically.

    Args:
        folder: Output folder.
        backbone: The policy.
        tokenizer: Its tokenizer.
        recipe: Training configuration as plain data, for `policy.json`.
        weights: `merged`: the whole model with LoRA merged in. `adapter`: the LoRA weights in peft's layout, with the path of the base.

    Raises:
        ConfigError: See `check`.
    """
    check(backbone, weights)
    with replacing(folder) as staging:
        if weights == "merged":
            with quietly():
                backbone.model.save_pretrained(staging, state_dict=backbone.merged_state())
        else:
            _save_adapter(staging, backbone)
        tokenizer.save_pretrained(staging)
        about = {
            "weights": weights,
            "backbone": backbone.recipe(),
            "recipe": recipe,
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers", "peft")},
        }
        (staging / "policy.json").write_text(json.dumps(about, indent=2) + "\n")


def context_of(folder: Path | str) -> str:
    """Return the column that a policy was trained to read in its prompts (`data.context`); empty: none, or no folder of `save`.

    Raises:
        CheckpointError: The folder is damaged.
    """
    file = Path(folder) / "policy.json"
    try:
        return str(json.loads(file.read_text())["recipe"].get("context", "")) if file.exists() else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: does not say how the policy was trained ({error!r}); export it again") from error


def check(backbone: Backbone, weights: PolicyWeights) -> None:
    """Raise ConfigError if there is no adapter to save, peft could not load it, or a quantised base would have to be merged."""
    if weights == "adapter" and backbone.lora is None:
        raise ConfigError("the policy has no LoRA adapter to save; export it merged (ExportPolicy.weights: merged)")
    if weights == "adapter" and backbone.settings["gguf"] is not None:
        raise ConfigError("an adapter cannot refer to a base in a GGUF file; set ExportPolicy.weights: merged")
    if weights == "adapter" and any(isinstance(module, ParamWrapper) for module in backbone.model.modules()):
        raise ConfigError("peft cannot load adapters of experts; set ExportPolicy.weights: merged")
    if weights == "merged" and backbone.settings["quantize"] != "none":
        raise ConfigError("a quantised base cannot be merged with its adapter; set ExportPolicy.weights: adapter")


def _save_adapter(folder: Path, backbone: Backbone) -> None:
    lora = backbone.lora
    assert lora is not None
    targets = [name for name, module in backbone.model.named_modules() if isinstance(module, LoraLayer)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=targets,
        base_model_name_or_path=str(resolve(backbone.path)),
        revision=backbone.settings["revision"],
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    # peft stores the names of the wrapped model, without the adapter's name.
    state = {
        f"base_model.model.{name.replace('.default', '')}": tensor.detach().cpu().contiguous()
        for name, tensor in backbone.model.state_dict().items()
        if ".lora_" in name
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
