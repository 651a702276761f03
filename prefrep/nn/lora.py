"""Low-rank adapters on a language model, through peft."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prefrep.errors import ConfigError
from prefrep.nn.families import is_router


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685) through peft; the rest of the backbone is frozen.

    Args:
        rank: Rank of each adapter.
        alpha: Scale; the output of an adapter is multiplied by alpha / rank.
        dropout: Dropout rate on the input of each adapter, in [0, 1).
        targets: Names of the linear layers that get an adapter. Empty: all linear layers except the output layer and routers.

    Raises:
        ConfigError: A value is out of range.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA.rank must be 1 or more, got {self.rank}")
        if not math.isfinite(self.alpha):
            raise ConfigError(f"LoRA.alpha must be finite, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRA.dropout must be in [0, 1), got {self.dropout}")


def add_adapters(model: Any, lora: LoRA, path: str) -> None:
    """Freeze a model and add adapters to its linear layers, in place.

    Args:
        model: A causal language model.
        lora: The adapters.
        path: Path of the model, for the error message.

    Raises:
        ConfigError: peft cannot adapt these layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    output = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output and not is_router(module)  # Conv1D: GPT-2
    ]
    options = LoraConfig(
        r=lora.rank, lora_alpha=cast(int, lora.alpha), lora_dropout=lora.dropout, target_modules=lora.targets or linear, bias="none"
    )
    try:
        inject_adapter_in_model(options, model)
    except ValueError as error:  # such as dropout beside experts, or a layer of Mamba
        raise ConfigError(f"{path}: peft refuses these adapters ({str(error)[:200]}); change lora.targets or lora.dropout") from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # adapters train in fp32 whatever the dtype of the base
            parameter.data = parameter.data.float()


def load_merged(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load the state of a plain model into one that may have new adapters: the inverse of `merged_state`.

    Args:
        model: A causal language model.
        state: What `merged_state` returned for a model of the same kind.

    Returns:
        Names of the tensors that `state` lacks or that have another shape; all others are loaded.
    """
    wrong = []
    for name, tensor in model.state_dict().items():
        found = state.get(name.replace(".base_layer", ""))
        if ".lora_" in name:
            continue
        if found is None or found.shape != tensor.shape:
            wrong.append(name)
        else:
            tensor.copy_(found)  # a view of the parameter
    return wrong


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model under the names of the plain model, with enabled adapters added to the weights.

    Under autocast too the sums are those of the weights' precision.

    Args:
        model: A causal language model, with or without adapters.
    """
    from peft.tuners.lora import LoraLayer

    state = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    for owner, adapter in model.named_modules():
        if isinstance(adapter, LoraLayer) and not adapter.disable_adapters:
            # peft adapts the experts of a layer as one parameter each, in wrappers around one another.
            name = f"{owner.replace('.base_layer', '')}.{getattr(adapter, 'parameter_name', 'weight')}"
            with torch.autocast(state[name].device.type, enabled=False):
                delta: Tensor = cast(Any, adapter).get_delta_weight("default")
            state[name] = (state[name].float() + delta.float()).to(state[name].dtype)
    return state


@torch.no_grad()
def twin(model: nn.Module, dtype: torch.dtype | None = None, adapters: bool = True) -> nn.Module:
    """Return a model that computes the same with enabled adapters merged into its weights, for reading only.

    It shares every other tensor with `model`, which stays as it is. Adapters of quantised weights stay beside these.

    Args:
        model: A causal language model, with or without adapters.
        dtype: Dtype of its floating-point parameters; None: as they are.
        adapters: Merge enabled adapters; otherwise leave them out.
    """
    from peft.tuners.lora import LoraLayer

    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    found: nn.Module = copy.deepcopy(model, shared)
    layers = {name: module for name, module in found.named_modules() if isinstance(module, LoraLayer)}
    for owner, adapter in list(layers.items()):
        if adapters and not adapter.disable_adapters:
            base, name = adapter.get_base_layer(), getattr(adapter, "parameter_name", "weight")
            weight = getattr(base, name)
            if not weight.is_floating_point():  # packed: nothing can be added to it
                del layers[owner]
                continue
            delta = cast(Any, adapter).get_delta_weight("default")
            setattr(base, name, nn.Parameter((weight.float() + delta.float()).to(weight.dtype), requires_grad=False))
    for name, adapter in layers.items():
        if not any(name.startswith(f"{other}.") for other in layers):  # peft wraps experts several times
            found.set_submodule(name, adapter.get_base_layer())
    if dtype is not None:
        converted = dict[int, nn.Parameter]()  # tied weights stay tied
        for module in found.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point() and parameter.dtype != dtype:
                    new = converted.setdefault(id(parameter), nn.Parameter(parameter.to(dtype), requires_grad=False))
                    setattr(module, name, new)
    return found.eval()
