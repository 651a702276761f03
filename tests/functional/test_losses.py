"""Losses on inputs whose logits are logs of small numbers, so that the expected values can be written down."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prefrep.functional import losses

LOSSES = [losses.logistic, losses.regression, losses.hinge]
Loss = Callable[..., Tensor]


def one(value: float) -> Tensor:
    """A tensor of one comparison, in fp64."""
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(x: float) -> float:
    """The probability that log-odds of x stand for."""
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("score", "probability", "margin", "tau", "smoothing", "expected"),
    [
        (0.0, 1.0, 0.0, 1.0, 0.0, math.log(2)),
        (math.log(3), 1.0, 0.0, 1.0, 0.0, math.log(4 / 3)),  # sigmoid(log 3) = 3/4
        (math.log(3), 0.0, 0.0, 1.0, 0.0, math.log(4)),
        (0.1 * math.log(3), 1.0, 0.0, 0.1, 0.0, math.log(4 / 3)),
        (0.1 * math.log(3), 0.25, 0.0, 0.1, 0.0, 0.25 * math.log(4 / 3) + 0.75 * math.log(4)),
        (0.1 * (5 + math.log(3)), 1.0, 5.0, 0.1, 0.0, math.log(4 / 3)),  # the margin is subtracted from the log-odds
        (-0.1 * (5 + math.log(3)), 0.0, 5.0, 0.1, 0.0, math.log(4 / 3)),  # and is against whoever has to win
        (math.log(3), 1.0, 0.0, 1.0, 0.1, 0.9 * math.log(4 / 3) + 0.1 * math.log(4)),
        (math.log(3), 0.75, 0.0, 1.0, 0.2, 0.65 * math.log(4 / 3) + 0.35 * math.log(4)),  # 0.8 * 0.75 + 0.2 * 0.25
    ],
)
def test_logistic(score: float, probability: float, margin: float, tau: float, smoothing: float, expected: float) -> None:
    """Sigmoid(log 3) = 3/4, mixed by hand."""
    loss = losses.logistic(one(score), one(probability), one(margin), tau, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("score", "probability", "margin", "tau", "target", "smoothing", "expected"),
    [
        (0.4, 1.0, 0.0, 0.1, 10.0, 0.0, 18.0),  # (4 - 10)^2 / 2: the official loss with its constant
        (-0.4, 0.0, 0.0, 0.1, 10.0, 0.0, 18.0),
        (0.2, 0.5, 0.0, 0.1, 10.0, 0.0, 2.0),  # a tie: target 0
        (0.5, sigmoid(2.0), 0.0, 0.1, 10.0, 0.0, 4.5),  # (5 - 2)^2 / 2
        (0.5, sigmoid(-2.0), 0.0, 0.1, 10.0, 0.0, 24.5),
        (0.0, sigmoid(2.0), 0.0, 0.1, 1.0, 0.0, 0.5),  # held at the target
        (0.4, 1.0, 2.0, 0.1, 10.0, 0.0, 32.0),  # (0.4 / 0.1 - 2 - 10)^2 / 2
        (-0.4, 0.0, 2.0, 0.1, 10.0, 0.0, 32.0),
        (0.2, 0.5, 2.0, 0.1, 10.0, 0.0, 2.0),  # a tie has no winner for the margin
        (1.0, 1.0, 0.0, 1.0, 10.0, 0.25, 0.5 * (1 - math.log(3)) ** 2),  # 3/4 after smoothing
    ],
)
def test_regression(score: float, probability: float, margin: float, tau: float, target: float, smoothing: float, expected: float) -> None:
    """Squares by hand."""
    loss = losses.regression(one(score), one(probability), one(margin), tau, target, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("score", "probability", "margin", "tau", "smoothing", "expected"),
    [
        (0.0, 1.0, 0.0, 0.1, 0.0, 1.0),
        (0.1, 1.0, 0.0, 0.1, 0.0, 0.0),
        (0.05, 1.0, 0.0, 0.1, 0.0, 0.5),
        (0.05, 0.0, 0.0, 0.1, 0.0, 1.5),
        (0.3, 1.0, 2.5, 0.1, 0.0, 0.5),
        (0.2, 0.25, 0.0, 0.1, 0.0, 0.75 * 3),
        (0.2, 1.0, 0.0, 0.1, 0.25, 0.25 * 3),
    ],
)
def test_hinge(score: float, probability: float, margin: float, tau: float, smoothing: float, expected: float) -> None:
    """Distances from log-odds of 1 by hand."""
    loss = losses.hinge(one(score), one(probability), one(margin), tau, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
def test_exchanging_the_responses_changes_nothing(loss: Loss, smoothing: float) -> None:
    """S -> -s and p -> 1 - p, with margins, ties and labels of every hardness."""
    torch.manual_seed(0)
    scores, margin = torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    p = torch.cat([torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), torch.rand(47, dtype=torch.float64)])
    there = loss(scores, p, margin, 0.3, smoothing=smoothing)
    back = loss(-scores, 1 - p, margin, 0.3, smoothing=smoothing)
    assert there.shape == (50,)
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("loss", [losses.logistic, losses.regression])
def test_minimum_is_at_the_log_odds_of_the_label(loss: Loss, probability: float) -> None:
    """A tie pulls to 0; a soft label to tau log(p / (1 - p))."""
    best = 0.1 * math.log(probability / (1 - probability))
    around = torch.tensor([best - 0.05, best, best + 0.05], dtype=torch.float64, requires_grad=True)
    values = loss(around, torch.full_like(around, probability), 0.0, 0.1)
    (gradient,) = torch.autograd.grad(values.sum(), around)
    assert values[1] < values[0] and values[1] < values[2]
    assert gradient[0] < 0 < gradient[2]
    assert gradient[1].item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_large_scores_stay_finite(loss: Loss, probability: float) -> None:
    """Values and gradients at +-1e4, where a probability is 0 or 1 in floating point."""
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    values = loss(scores, torch.full((2,), probability), torch.zeros(2), 0.1)
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    assert values.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision_inputs_are_widened(loss: Loss) -> None:
    """Scores in bf16 give the loss of the same numbers in fp32."""
    scores = torch.tensor([0.3, -1.7, 2.2], dtype=torch.bfloat16)
    labels = torch.tensor([1.0, 0.5, 0.25], dtype=torch.bfloat16)
    margin = torch.tensor([0.1, 0.0, 0.5], dtype=torch.bfloat16)
    values = loss(scores, labels, margin, 0.1)
    assert values.dtype == torch.float32
    assert torch.equal(values, loss(scores.float(), labels.float(), margin.float(), 0.1))


def test_centre() -> None:
    """With two rewards (1 + 2)^2; with three (2 * 2)^2; no shift, no loss."""
    assert losses.centre(torch.tensor([[1.0, 2.0], [3.0, -3.0]])).tolist() == [9.0, 0.0]
    assert losses.centre(torch.tensor([1.0, 2.0, 3.0])).item() == 16.0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss: Loss) -> None:
    """Against finite differences, for scores and for tau."""
    torch.manual_seed(0)
    scores = torch.randn(6, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: loss(s, p, 0.1, t), (scores, tau))
