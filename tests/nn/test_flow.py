"""Preference flows: exact cases, and the two-dimensional check with three modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.nn.flow import VelocityField, carry, fit, flow_matching_loss


class Constant(nn.Module):
    """v = c, whatever the time and place."""

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, t: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
        return self.velocity.expand_as(y)


class Linear(Constant):
    """v = 2 t y: y(1) = e y(0)."""

    def forward(self, t: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
        return 2 * t[:, None] * y


def test_a_shift_is_its_own_velocity() -> None:
    shift = torch.tensor([0.5, -2.0])
    rejected = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    field = Constant(shift)
    assert flow_matching_loss(field, rejected + shift, rejected, torch.linspace(0, 1, 7)).max() < 1e-10
    torch.testing.assert_close(carry(field, rejected, repeats=3), rejected + 3 * shift)
    # The error of the field 0 is the squared distance: .25 + 4.
    torch.testing.assert_close(
        flow_matching_loss(Constant(torch.zeros(2)), rejected + shift, rejected, torch.rand(7)), torch.full((7,), 4.25)
    )


def test_the_field_is_asked_between_the_two_responses() -> None:
    """By hand: at t = 1/4 between -1 and 3 lies 0, where v = 2 t y is 0, so that the error is (3 + 1)^2; at t = 1/2 it is (1 - 4)^2."""
    chosen, rejected = torch.tensor([[3.0], [3.0]]), torch.tensor([[-1.0], [-1.0]])
    found = flow_matching_loss(Linear(torch.zeros(1)), chosen, rejected, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(found, torch.tensor([16.0, 9.0]))


def test_integration_is_euler_s() -> None:
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    factor = 1.0
    for step in range(10):
        factor *= 1 + 2 * (step / 10) / 10
    torch.testing.assert_close(carry(Linear(torch.zeros(2)), start, steps=10), factor * start)
    torch.testing.assert_close(carry(Linear(torch.zeros(2)), start, steps=2000), start * torch.e, atol=6e-3, rtol=0)


def test_a_condition_steers() -> None:
    """The condition says to which side the chosen response lies."""
    torch.manual_seed(0)
    rejected, side = torch.randn(200, 1), torch.randint(0, 2, (200, 1)) * 2.0 - 1
    field = VelocityField(1, condition=1, hidden=16)
    assert fit(field, rejected + side, rejected, side, steps=300) < 0.01
    moved = carry(field, rejected, side) - rejected
    torch.testing.assert_close(moved, side, atol=0.2, rtol=0)


MODES, WIDTH = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]]), 0.8


def reward(y: Tensor) -> Tensor:
    return (-torch.cdist(y, MODES).square() / (2 * WIDTH**2)).exp().sum(-1)


def test_samples_of_a_policy_move_to_what_is_preferred() -> None:
    """Three bumps of reward, 1500 comparisons of a normal policy. Once carried, samples are worth at least the mean chosen response."""
    generator = torch.Generator().manual_seed(0)
    pairs = 1.3 * torch.randn(1500, 2, 2, generator=generator)
    first = (reward(pairs[:, 0]) > reward(pairs[:, 1]))[:, None]
    chosen, rejected = torch.where(first, pairs[:, 0], pairs[:, 1]), torch.where(first, pairs[:, 1], pairs[:, 0])
    torch.manual_seed(0)
    field = VelocityField(2)
    fit(field, chosen, rejected, steps=400)
    samples = 1.3 * torch.randn(2000, 2, generator=generator)
    values = [float(reward(carry(field, samples, repeats=repeats)).mean()) for repeats in (1, 2, 5)]
    start, data = float(reward(samples).mean()), float(reward(chosen).mean())
    assert start < data <= values[0] < values[1] < values[2]


def test_sizes_out_of_range() -> None:
    with pytest.raises(ConfigError, match="dim, hidden and layers"):
        VelocityField(0)
