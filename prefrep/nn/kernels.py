"""Which attention kernels a model may use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from prefrep.errors import ConfigError
from prefrep.nn import families, probes
from prefrep.nn.attention import FLEX, SPARSE, TREES
from prefrep.nn.compiling import flex_compiles

log = logging.getLogger(__name__)

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


def first_for_trees(backbone: Any, known: Sequence[str], device: torch.device, mixed: torch.dtype | None) -> str | None:
    """Return the first kernel that respects a tree mask, and leave it in use; None: none does.

    Args:
        backbone: The backbone (`Backbone`, which imports this file).
        known: Its candidates; several: `auto`, which tries FlexAttention before them where there is one for the device.
        device: Its device.
        mixed: Dtype of autocast where batches are read; None: there is none.
    """
    auto = len(known) > 1

    def probe(kernel: str) -> bool:
        backbone.use(kernel)
        return probes.isolates_branches(backbone, device, families.has_experts(backbone.model.config.get_text_config()))

    for kernel in [FLEX, *known] if auto and device.type in FLEX_ON else known:
        otherwise = f"{backbone.path}: attention {kernel} does not support a tree mask"
        isolates = probes.passes(backbone, partial(probe, kernel), otherwise)
        # A probe compiles nothing; what was asked for by name may fail where it is used.
        if isolates and (kernel != FLEX or not auto or flex_compiles(backbone, device, mixed)):
            return kernel
        if kernel == FLEX and auto and not isolates:
            log.warning("%s: attention: auto does not use flex_attention on this device", backbone.path)
    return None
