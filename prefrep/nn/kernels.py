"""Which attention kernels a model may use."""

from __future__ import annotations

from transformers import PreTrainedModel

from prefrep.errors import ConfigError
from prefrep.nn.attention import SPARSE, TREES

FLEX_ON = ("cuda",)  # types of devices on which `auto` tries flex_attention first


def candidates(model: PreTrainedModel, path: str, attention: str, both_ways: bool) -> list[str]:
    """Return the kernels to try, fastest first.

    Args:
        model: The model, with the kernel that it was loaded with.
        path: Its name for errors.
        attention: See `Backbone`.
        both_ways: Whether it reads both ways.

    Raises:
        ConfigError: The model cannot use the kernel that was asked for.
    """
    loaded = str(model.config._attn_implementation)
    if both_ways and attention in SPARSE:
        raise ConfigError(f"{path}: reads both ways, so attention: {attention} has no trees to read; use auto")
    if both_ways or attention not in ("auto", *SPARSE):
        return [loaded]
    if not type(model)._can_set_attn_implementation():
        if attention == "auto":
            return [loaded]
        raise ConfigError(f"{path}: the model does not use transformers' attention interface, which attention: {attention} needs; use auto")
    return [TREES, loaded] if attention == "auto" else [attention]
