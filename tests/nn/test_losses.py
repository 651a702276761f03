"""Loss modules: settings reach the formulas, temperatures are learnt, and bad values are refused, also while parsing."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser

from prefrep.errors import ConfigError
from prefrep.functional import losses as functional
from prefrep.nn.heads import GPMHead
from prefrep.nn.losses import HingeLoss, LogisticLoss, PreferenceLoss, RegressionLoss

KINDS = [LogisticLoss, RegressionLoss, HingeLoss]


def parser() -> ArgumentParser:
    """A command line that takes a loss as the modules do."""
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--loss", type=Callable[[], PreferenceLoss])
    return made


def test_settings_reach_the_formulas() -> None:
    """Each module is its function with its settings."""
    torch.manual_seed(0)
    scores, p, margin = torch.randn(20), torch.rand(20), torch.rand(20)
    pairs = [
        (LogisticLoss(0.3, 0.1), functional.logistic(scores, p, margin, 0.3, 0.1)),
        (RegressionLoss(0.3, 2.0, 0.1), functional.regression(scores, p, margin, 0.3, 2.0, 0.1)),
        (HingeLoss(0.3, 0.1), functional.hinge(scores, p, margin, 0.3, 0.1)),
    ]
    for module, expected in pairs:
        assert torch.equal(module(scores, p, margin), expected)


def test_defaults() -> None:
    """Bradley-Terry's temperature and the official target."""
    assert [kind().tau for kind in KINDS] == [1.0, 1.0, 1.0]
    assert RegressionLoss().target == 10.0


def test_official_losses_of_general_preferences() -> None:
    """-log sigmoid((c0 r1 - c1 r0) / tau - m) and half the square of (c0 r1 - c1 r0) / tau - 10, with plain floats."""
    chosen, rejected, margin, tau = [(0.6, 0.8), (0.0, 1.0), (-0.28, 0.96)], [(0.8, 0.6), (1.0, 0.0), (0.6, 0.8)], [0.0, 0.5, 2.0], 0.1
    scores = [c[0] * r[1] - c[1] * r[0] for c, r in zip(chosen, rejected, strict=True)]
    logistic = [math.log1p(math.exp(m - s / tau)) for s, m in zip(scores, margin, strict=True)]
    squares = [0.5 * (s / tau - 10) ** 2 for s in scores]
    made = GPMHead(4).compare(torch.tensor(chosen), torch.tensor(rejected))
    ones = torch.ones(3)
    torch.testing.assert_close(LogisticLoss(tau)(made, ones, torch.tensor(margin)), torch.tensor(logistic))
    torch.testing.assert_close(RegressionLoss(tau)(made, ones, torch.zeros(3)), torch.tensor(squares))


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_temperature(kind: type[PreferenceLoss]) -> None:
    """No parameter, nothing to save, and no rounding when a model is turned into bf16."""
    loss = kind(tau=0.1).to(torch.bfloat16)
    assert not list(loss.parameters()) and not loss.state_dict()
    assert loss.tau == 0.1
    assert loss.log_odds(torch.tensor([0.25])).item() == pytest.approx(2.5)


@pytest.mark.parametrize("kind", KINDS)
def test_learnt_temperature_reaches_the_optimizer(kind: type[PreferenceLoss]) -> None:
    """As a parameter of whatever holds the loss; a step changes it."""
    holder = torch.nn.ModuleDict({"loss": kind(tau=0.5, learn_tau=True)})
    assert [name for name, _ in holder.named_parameters()] == ["loss.log_tau"]
    loss = holder["loss"]
    assert loss.tau == pytest.approx(0.5)
    optimizer = torch.optim.SGD(holder.parameters(), lr=0.1)
    loss(torch.tensor([0.3, -0.2]), torch.ones(2), torch.zeros(2)).mean().backward()
    optimizer.step()
    assert loss.tau > 0 and loss.tau != pytest.approx(0.5)
    again = copy.deepcopy(loss)
    again.load_state_dict(loss.state_dict())
    assert again.tau == loss.tau


def test_gradient_of_the_temperature() -> None:
    """With x = s exp(-theta): d/dtheta -log sigmoid(x) = x sigmoid(-x)."""
    loss = LogisticLoss(tau=0.2, learn_tau=True)
    loss(torch.tensor([0.3]), torch.ones(1), torch.zeros(1)).sum().backward()
    x = 0.3 / 0.2
    assert loss.log_tau is not None and loss.log_tau.grad is not None
    assert loss.log_tau.grad.item() == pytest.approx(x / (1 + math.exp(x)), rel=1e-5)


def test_small_temperatures_keep_their_gradient() -> None:
    """At tau = 0.001, below where the official code cuts off, a wrong comparison still raises it."""
    loss = LogisticLoss(tau=0.001, learn_tau=True)
    loss(torch.tensor([-0.5]), torch.ones(1), torch.zeros(1)).sum().backward()
    assert loss.log_tau is not None and loss.log_tau.grad is not None
    assert loss.log_tau.grad.item() == pytest.approx(-500, rel=1e-4)


def test_learnt_temperature_finds_the_noise() -> None:
    """Scores of 1 that win 3 times out of 4 want log-odds of log 3, so tau = 1 / log 3."""
    loss = LogisticLoss(tau=0.2, learn_tau=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.zeros(4)).mean().backward()
        optimizer.step()
    assert loss.tau == pytest.approx(1 / math.log(3), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LogisticLoss(tau=0.0), "LogisticLoss.tau must be a positive number, got 0.0"),
        (lambda: HingeLoss(tau=-1.0), "HingeLoss.tau must be a positive number, got -1.0"),
        (lambda: LogisticLoss(tau=math.nan), "LogisticLoss.tau must be a positive number, got nan"),
        (lambda: LogisticLoss(tau=math.inf), "LogisticLoss.tau must be a positive number, got inf"),
        (lambda: RegressionLoss(target=0.0), "RegressionLoss.target must be a positive number, got 0.0"),
        (lambda: LogisticLoss(smoothing=0.5), "LogisticLoss.smoothing must be at least 0 and below 0.5, got 0.5"),
        (lambda: LogisticLoss(smoothing=-0.1), "LogisticLoss.smoothing must be at least 0 and below 0.5, got -0.1"),
    ],
)
def test_values_out_of_range(make: Callable[[], PreferenceLoss], sentence: str) -> None:
    """One sentence each."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--loss", "LogisticLoss", "--loss.tau", "0"], "tau must be a positive number, got 0"),
        (["--loss", "RegressionLoss", "--loss.target", "-3"], "target must be a positive number, got -3"),
        (["--loss", "HingeLoss", "--loss.smoothing", "0.7"], "smoothing must be at least 0 and below 0.5, got 0.7"),
    ],
)
def test_values_out_of_range_are_refused_while_parsing(flags: list[str], sentence: str) -> None:
    """Before anything is built, although losses are built late."""
    with pytest.raises(argparse.ArgumentError, match=sentence):
        parser().parse_args(flags)


def test_parsed_losses_hold_plain_numbers() -> None:
    """A flag becomes a float, so that settings can be saved as data."""
    made = parser()
    settings = made.parse_args(["--loss", "RegressionLoss", "--loss.tau", "1e-1", "--loss.target", "5", "--loss.learn_tau", "true"])
    loss = made.instantiate_classes(settings).loss()
    assert isinstance(loss, RegressionLoss)
    assert type(loss.target) is float and loss.target == 5.0
    assert loss.tau == pytest.approx(0.1) and loss.log_tau is not None
