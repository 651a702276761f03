"""Weights of a policy for an engine that holds a copy of them."""

from __future__ import annotations

import weakref
from pathlib import Path

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from prefrep.errors import ConfigError, TrainingError
from prefrep.nn.backbone import Backbone
from prefrep.nn.glance import glance
from prefrep.nn.quietly import quietly
from prefrep.room import saving


class Version:
    """Which weights a model has, with its adapters switched on or off: equal for one model whose weights have not changed."""

    def __init__(self, backbone: Backbone) -> None:
        self._model = weakref.ref(backbone.model)
        # Optimizers update in place, which increases `_version`; those that write through pointers change what a glance sees.
        self._state = [
            (id(tensor), tensor._version, glance(tensor) if tensor.requires_grad else b"") for tensor in backbone.model.parameters()
        ]
        self._adapters = [module.disable_adapters for module in backbone.model.modules() if isinstance(module, BaseTunerLayer)]

    def __eq__(self, other: object) -> bool:
        model = self._model()
        if not isinstance(other, Version) or model is None or model is not other._model():
            return False
        return self._state == other._state and self._adapters == other._adapters

    __hash__ = None  # type: ignore[assignment]


def plain_state(backbone: Backbone) -> dict[str, Tensor]:
    """Return the weights under the names of a checkpoint, with enabled adapters merged.

    Raises:
        ConfigError: They are quantised.
        TrainingError: They are not finite.
    """
    return revert_weight_conversion(backbone.model, _merged(backbone))  # type: ignore[no-any-return]


def export(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the plain language model, with adapters merged, and its tokenizer.

    Raises:
        OSError: There is no room for it.
        ConfigError: Weights are quantised.
        TrainingError: Weights are not finite.
    """
    with quietly(), saving(folder):
        backbone.model.save_pretrained(folder, state_dict=_merged(backbone))  # which converts the names itself
        tokenizer.save_pretrained(folder)


def _merged(backbone: Backbone) -> dict[str, Tensor]:
    if backbone.settings["quantize"] != "none":
        raise ConfigError(f"{backbone.path}: quantised weights cannot be handed to vLLM; use TransformersSampler")
    state = backbone.merged_state()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(f"{name} of the policy is not finite, so nothing is sampled; use a policy that has not diverged")
    return state
