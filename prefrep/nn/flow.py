"""Preference flow matching: a velocity field that carries responses from rejected to chosen ones (arXiv 2405.19806).

For points of a fixed vector space: continuous actions, or embeddings of responses. It is no trainer of language models and writes no text:
an embedding that has moved is a place near which better responses lie. The policy that gave the points stays as it is.

The field v(t, y | x) is regressed on y+ - y- along the lines y_t = (1 - t) y- + t y+ between the two responses of a comparison. Integrated
from t = 0 to 1, it carries a sample of the policy towards what is preferred to it; results can be carried again.

Letters: N comparisons or points, D dimensions of a response, C of a condition x (0: none).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from prefrep.errors import ConfigError


class VelocityField(nn.Module):
    """An MLP with SiLU units: (t, y, x) -> dy/dt.

    Args:
        dim: D.
        condition: C, size of the embedded prompt or state.
        hidden: Units of a hidden layer.
        layers: Number of hidden layers.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(self, dim: int, condition: int = 0, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        if min(dim, hidden, layers) < 1 or condition < 0:
            raise ConfigError(
                f"dim, hidden and layers must be 1 or more and condition 0 or more, got {dim}, {hidden}, {layers}, {condition}"
            )
        sizes = [1 + dim + condition] + [hidden] * layers
        units = [unit for a, b in pairwise(sizes) for unit in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*units, nn.Linear(hidden, dim))

    def forward(self, t: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
        """Return velocities: t [N], y [N, D], x [N, C] or None -> [N, D]."""
        found: Tensor = self.net(torch.cat([t[:, None], y] if x is None else [t[:, None], y, x], dim=-1))
        return found


def flow_matching_loss(field: nn.Module, chosen: Tensor, rejected: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
    """Return |v(t, (1 - t) y- + t y+ | x) - (y+ - y-)|^2 of each comparison: [N, D], [N, D], times [N], [N, C] -> [N]."""
    between = torch.lerp(rejected, chosen, t[:, None])
    errors: Tensor = field(t, between, x) - (chosen - rejected)
    return errors.square().sum(-1)


def fit(
    field: VelocityField, chosen: Tensor, rejected: Tensor, x: Tensor | None = None, steps: int = 1000, lr: float = 3e-3, seed: int = 0
) -> float:
    """Train a field on comparisons by Adam on all of them, with new times at each step and a cosine schedule.

    Args:
        field: The field, which is changed.
        chosen: y+ [N, D].
        rejected: y- [N, D].
        x: Conditions [N, C].
        steps: Optimizer steps.
        lr: Initial learning rate.
        seed: Seed of the times.

    Returns:
        Mean loss of the last step, squared units of y.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(field.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        t = torch.rand(len(chosen), generator=generator).to(chosen)
        optimizer.zero_grad()
        loss = flow_matching_loss(field, chosen, rejected, t, x).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


@torch.no_grad()
def carry(field: nn.Module, y: Tensor, x: Tensor | None = None, steps: int = 20, repeats: int = 1) -> Tensor:
    """Return points after integration of the field from t = 0 to 1 by Euler's method, several times over: [N, D] -> [N, D].

    Args:
        field: The field.
        y: Points, samples of the policy [N, D].
        x: Conditions [N, C].
        steps: Euler steps of one integration.
        repeats: Number of integrations; each begins where the last one ended.
    """
    for step in range(steps * repeats):
        t = y.new_full((len(y),), step % steps / steps)
        y = y + field(t, y, x) / steps
    return y
