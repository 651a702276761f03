"""Heads of other people's reward models: layers before the reward, objectives with names, gates, bins and normalisers.

All are Bradley-Terry: one reward per response. They are read by `io.readers`, and train like `BTHead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.functional.skew import widen
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import BTHead, PairHead
from prefrep.nn.layers import Layers
from prefrep.nn.skew import project


class LayeredHead(BTHead):
    """A reward behind layers: r = sign * (w f(h) + bias - mean) / std.

    Args:
        hidden_size: Hidden size H of the backbone.
        layers: f, see `nn.layers`; empty: the identity.
        mean: Of a normaliser.
        std: Of a normaliser.
        sign: -1 for a cost.

    Raises:
        ConfigError: A layer is unknown, or std is not positive.
    """

    def __init__(self, hidden_size: int, layers: Sequence[str] = (), mean: float = 0.0, std: float = 1.0, sign: Literal[1, -1] = 1) -> None:
        if not std > 0:
            raise ConfigError(f"LayeredHead.std must be positive, got {std}")
        stack = Layers(hidden_size, layers)
        super().__init__(stack.size)
        self.layers, self.mean, self.std, self.sign = stack, mean, std, sign
        self.bias = nn.Parameter(torch.zeros(1))

    def embed(self, hidden: Tensor) -> Tensor:
        """Return rewards [.., 1] of hidden states [.., H]."""
        return self.sign * (project(self.value_head, self.layers(hidden)) + self.bias - self.mean) / self.std


class ObjectivesHead(BTHead):
    """Rewards for named objectives, and one reward that weighs them (ArmoRM, QRM, LDL).

    Each objective has one number, or B of them: quantiles, whose mean counts, or bins between 0 and 1, whose softmax is a distribution.
    `mix` then makes adjusted rewards of them, and a gate weighs those: softmax(g / temperature) * scale.

    Args:
        hidden_size: Hidden size H of the backbone.
        objectives: Names of the O objectives.
        layers: From a state to O x B numbers.
        reduce: What B numbers say: their `mean`, or the mean of a distribution over `bins`.
        gate: From a state to O weights; empty: the objectives are added with the weights of `mix` alone.
        gate_at: Where the gate reads: the end of the `prompt`, or the `response`.
        gate_softmax: Whether the weights are a softmax.
        temperature: Of the softmax.
        objective: The one that counts; empty: all of them, weighed.

    Raises:
        ConfigError: A layer or the objective is unknown, or sizes do not fit.
    """

    def __init__(
        self,
        hidden_size: int,
        objectives: Sequence[str],
        layers: Sequence[str],
        reduce: Literal["mean", "bins"] = "mean",
        gate: Sequence[str] = (),
        gate_at: Literal["prompt", "response"] = "prompt",
        gate_softmax: bool = True,
        temperature: float = 1.0,
        objective: str = "",
    ) -> None:
        super().__init__(hidden_size)
        del self.value_head
        self.objectives, count = tuple(objectives), len(objectives)
        self.layers, self.gate = Layers(hidden_size, layers), Layers(hidden_size, gate) if gate else None
        if not count or self.layers.size % count or (self.gate and self.gate.size != count) or not temperature > 0:
            raise ConfigError(f"ObjectivesHead: {count} objectives do not fit layers {list(layers)} and gate {list(gate)}")
        self.reduce, self.gate_at, self.gate_softmax, self.temperature = reduce, gate_at, gate_softmax, temperature
        self.mix = nn.Parameter(torch.eye(count))
        self.scale = nn.Parameter(torch.ones(1))
        self.dim = 1 + count
        if objective and objective not in self.objectives:
            raise ConfigError(f"there is no objective {objective!r}; this model has {', '.join(self.objectives)}")
        self.objective = objective
        if objective:  # what weighs objectives has no gradient then, and DDP waits for one of every trainable parameter
            for weighs in (self.scale, *(self.gate.parameters() if self.gate else ())):
                weighs.requires_grad_(False)

    @property
    def needs_prompt(self) -> bool:
        """Whether the gate reads the prompt."""
        return self.gate is not None and self.gate_at == "prompt" and not self.objective

    def weights(self, state: Tensor) -> Tensor:
        """Return the weights of the objectives [.., O] at states [.., H]."""
        if self.gate is None:
            return widen(state).new_ones(len(self.objectives))
        found: Tensor = self.gate(state)
        return (torch.softmax(found / self.temperature, -1) if self.gate_softmax else found) * self.scale

    def embed(self, hidden: Tensor) -> Tensor:
        """Return the weighed reward, unless the prompt weighs it, and the reward of each objective, [.., 1 + O]."""
        numbers: Tensor = self.layers(hidden).unflatten(-1, (len(self.objectives), -1))
        if self.reduce == "bins":
            bins = torch.linspace(0, 1, numbers.shape[-1], device=numbers.device)
            rewards = (numbers.softmax(-1) * bins).sum(-1)
        else:
            rewards = numbers.mean(-1)
        rewards = rewards @ self.mix
        total = rewards.new_zeros(rewards.shape[:-1]) if self.needs_prompt else (self.weights(hidden) * rewards).sum(-1)
        return torch.cat([total[..., None], rewards], -1)

    def alone(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        if self.objective:
            return e[..., 1 + self.objectives.index(self.objective)]
        if not self.needs_prompt:
            return e[..., 0]
        assert context.prompt is not None
        weights = self.weights(context.prompt)
        if weights.ndim < e.ndim:  # one prompt for K responses
            weights = weights[..., None, :]
        return (weights * e[..., 1:]).sum(-1)

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        if not self.needs_prompt:
            return self.alone(a) - self.alone(b)
        assert context.prompt is not None
        return (self.weights(context.prompt) * (a - b)[..., 1:]).sum(-1)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        rewards = self.alone(e, context)
        return rewards[..., :, None] - rewards[..., None, :]


class MarkedPairHead(PairHead):
    """PairRM's head on the states of three marked tokens: f(a, b) = g(source, a) - g(source, b), the mean over tasks.

    f is not antisymmetric, since both answers are read in one sequence; comparisons are the mean over both orders, as of `PairHead`.

    Args:
        hidden_size: 3 H, the states of source, first and second answer side by side.
        layers: g, from 2 H numbers to one per task.

    Raises:
        ConfigError: A layer is unknown.
    """

    def __init__(self, hidden_size: int, layers: Sequence[str]) -> None:
        super().__init__(hidden_size)
        del self.value_head
        self.third = hidden_size // 3
        self.layers = Layers(2 * self.third, layers)

    def embed(self, hidden: Tensor) -> Tensor:
        """Return f of ordered pairs [.., 1]."""
        source, a, b = widen(hidden).split(self.third, -1)
        first, second = (self.layers(torch.cat([source, each], -1)) for each in (a, b))
        found: Tensor = (first - second).mean(-1, keepdim=True)
        return found
