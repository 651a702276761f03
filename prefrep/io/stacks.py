"""From tensors of a checkpoint to layers that say what they are, with their weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prefrep.errors import CheckpointError
from prefrep.nn.layers import ACTIVATIONS

PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Stack:
    """Layers of a head.

    Args:
        layers: Their names, see `nn.layers`.
        tensors: Weight and bias of each layer that has some, by its place.
    """

    layers: tuple[str, ...]
    tensors: dict[str, Tensor]

    def fill(self, module: nn.Module) -> None:
        """Load the weights into `nn.layers.Layers` of these layers."""
        module.load_state_dict({f"steps.{name}": tensor for name, tensor in self.tensors.items()})


def prefixes(spec: Sequence[str], names: Collection[str]) -> list[str]:
    """Return what is in front of `.weight` in the tensors of a head, in order; activations are left out.

    Args:
        spec: See `catalogue.Family.head`.
        names: All tensors of the checkpoint.
    """
    found: list[str] = []
    for word in spec:
        name, star, _ = word.partition(".*:")
        if star:
            numbered = {int(hit[1]) for each in names if (hit := re.fullmatch(re.escape(name) + r"\.(\d+)\.weight", each))}
            found += [f"{name}.{number}" for number in sorted(numbered)]
        elif word not in ACTIVATIONS and not word.startswith("@"):
            found.append(word)
    return found


def wanted(spec: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the tensors of a head that a checkpoint has."""
    return [f"{prefix}.{part}" for prefix in prefixes(spec, names) for part in PARTS if f"{prefix}.{part}" in names]


def complete(spec: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the tensors of a head that a checkpoint lacks; of numbered layers, the first one."""
    lacking = [f"{prefix}.weight" for prefix in prefixes(spec, names) if f"{prefix}.weight" not in names]
    starts = [f"{word.partition('.*:')[0]}.0" for word in spec if ".*:" in word]
    return lacking + [f"{start}.weight" for start in starts if f"{start}.weight" not in names]


def stack(path: str, spec: Sequence[str], tensors: dict[str, Tensor], config: Any, width: int) -> Stack:
    """Return the layers of a head.

    Args:
        path: Of the model, for error messages.
        spec: See `catalogue.Family.head`.
        tensors: All tensors of the head, by name.
        config: Configuration of the model, for activations and epsilons.
        width: Of the states that it reads.

    Raises:
        CheckpointError: A tensor is missing, its shape does not fit, or the configuration names an unknown activation.
    """
    layers: list[str] = []
    found: dict[str, Tensor] = {}
    for word in spec:
        name, star, activation = word.partition(".*:")
        if word.startswith("@"):
            layers.append(str(getattr(config, word[1:], None) or "gelu"))
            if layers[-1] not in ACTIVATIONS:
                raise CheckpointError(f"{path}: config.json says {word[1:]} {layers[-1]!r:.40}; prefrep has {', '.join(ACTIVATIONS)}")
        elif word in ACTIVATIONS:
            layers.append(word)
        else:
            each = prefixes([word], tensors)
            linear = [int(prefix.rpartition(".")[2]) for prefix in each if star and tensors[f"{prefix}.weight"].ndim == 2]
            if len({b - a for a, b in pairwise(linear)}) > 1:
                raise CheckpointError(f"{path}: a layer between {name}.{linear[0]} and {name}.{linear[-1]} is missing; download it again")
            last = max((i for i, prefix in enumerate(each) if tensors.get(f"{prefix}.weight", torch.ones(1)).ndim == 2), default=-1)
            for place, prefix in enumerate(each):
                layer, own, width = _layer(path, prefix, tensors, config, width)
                found |= {f"{len(layers)}.{part}": tensor for part, tensor in own.items()}
                layers.append(layer)
                if star and layer.startswith("linear") and place != last:
                    layers.append(activation)
    return Stack(tuple(layers), found)


def _layer(path: str, prefix: str, tensors: dict[str, Tensor], config: Any, width: int) -> tuple[str, dict[str, Tensor], int]:
    """Return the name of a layer, its tensors and the width behind it."""
    weight, bias, mean, var = (tensors.get(f"{prefix}.{part}") for part in PARTS)
    if weight is None:
        raise CheckpointError(f"{path}: there is no {prefix}.weight in its safetensors; download the checkpoint again")
    out = weight.shape[0]
    for name, tensor, shapes in [
        ("weight", weight, ([out, width], [width])),
        *((part, each, ([out],)) for part, each in zip(PARTS[1:], (bias, mean, var), strict=True) if each is not None),
    ]:
        if list(tensor.shape) not in shapes:
            expected = " or ".join(map(str, shapes))
            raise CheckpointError(f"{path}: {prefix}.{name} is {list(tensor.shape)}, and {expected} belongs there; download it again")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {prefix}.{name} holds numbers that are not finite; download the checkpoint again")
    if weight.ndim == 2:
        own = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return f"linear {out}{'' if bias is None else ' bias'}", own, out
    shift = torch.zeros_like(weight) if bias is None else bias
    if mean is not None and var is not None:  # batch normalisation, whose statistics are fixed
        scale = weight / (var + 1e-5).sqrt()
        return "affine", {"weight": scale, "bias": shift - mean * scale}, width
    eps = next((value for name in ("norm_eps", "layer_norm_eps") if (value := getattr(config, name, None)) is not None), 1e-5)
    return f"norm {eps}", {"weight": weight, "bias": shift}, width
