"""Language models as training builds them, with the weights of a model that was read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from prefrep.errors import CheckpointError
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import load_merged

# Builds a backbone from `path`, `revision` and `gguf`; dtype, LoRA and all else are the builder's.
Build = Callable[..., Backbone]


def trusts(build: Build) -> bool:
    """Return whether a configuration, of which jsonargparse has made a builder, says `trust_remote_code: true`."""
    return isinstance(build, partial) and build.keywords.get("trust_remote_code") is True


def rebuilt(build: Build, base: dict[str, Any], state: dict[str, Tensor], name: str) -> Backbone:
    """Return a backbone that `build` makes of a base, with the weights of a model that was trained from there.

    Args:
        build: Builds the backbone.
        base: `path`, `revision` and `gguf` of the base.
        state: Weights of the plain language model, see `Backbone.merged_state`.
        name: Of the trained model, for the error message.

    Raises:
        CheckpointError: The weights do not fit the base, or the backbone is quantised.
    """
    backbone = build(**base)
    if backbone.settings["quantize"] != "none":
        raise CheckpointError(
            f"{name}: its weights are a base and an adapter, which cannot be merged into a quantised backbone; export it as a whole model "
            "(prefrep export), or set --model.backbone.quantize none"
        )
    wrong = [each for each in load_merged(backbone.model, state) if not each.startswith("lm_head")]
    if wrong:
        raise CheckpointError(f"{name}: {wrong[0]} does not fit its base {base['path']}; export the model again")
    return backbone
