"""Small networks as plain data, so that a folder can say which layers its head has without naming code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefrep.errors import ConfigError
from prefrep.functional import skew

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
}


class Affine(nn.Module):
    """Scale and shift of each number, as batch normalisation is after training.

    Args:
        size: Numbers per state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return scaled and shifted states [.., size]."""
        return x * self.weight + self.bias


class Layers(nn.Module):
    """Layers named by words, computed in float32.

    Args:
        size: Width of the input.
        layers: `linear N`, `linear N bias`, `norm EPS`, `affine`, or an activation of `ACTIVATIONS`.

    Attributes:
        size: Width of the output.

    Raises:
        ConfigError: A layer is unknown.
    """

    def __init__(self, size: int, layers: Sequence[str]) -> None:
        super().__init__()
        self.steps = nn.ModuleDict()
        self.names = list(layers)
        for number, name in enumerate(layers):
            kind, *rest = name.split()
            try:
                if kind == "linear" and rest[1:] in ([], ["bias"]):
                    self.steps[str(number)] = nn.Linear(size, width := int(rest[0]), bias=len(rest) > 1)
                    size = width
                elif kind == "norm" and len(rest) == 1:
                    self.steps[str(number)] = nn.LayerNorm(size, eps=float(rest[0]))
                elif kind == "affine" and not rest:
                    self.steps[str(number)] = Affine(size)
                elif kind not in ACTIVATIONS or rest:
                    raise ValueError
            except (ValueError, IndexError, RuntimeError) as error:
                known = ", ".join(ACTIVATIONS)
                raise ConfigError(
                    f"no layer is called {name!r}; there are `linear N`, `linear N bias`, `norm EPS`, affine, {known}"
                ) from error
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [.., size] of states [.., width of the input]."""
        x = skew.widen(x)
        with skew.full_precision(x):
            for number, name in enumerate(self.names):
                x = self.steps[str(number)](x) if str(number) in self.steps else ACTIVATIONS[name](x)
        return x
