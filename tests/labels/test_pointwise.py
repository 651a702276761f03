"""`PointwiseLoss`: won or lost, each response alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn.functional import logsigmoid

from prefrep.data.trees import NOBODY
from prefrep.errors import ConfigError
from prefrep.labels.heads import Kept
from prefrep.labels.states import States
from prefrep.modules import BradleyTerry, GeneralPreference, HybridPreference, PairPreference, PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.losses import PointwiseLoss


def _module(kind: type[PreferenceModule], **options: Any) -> PreferenceModule:
    module = kind(lambda: cast(Backbone, Kept(5)), loss=lambda: PointwiseLoss(tau=0.5, smoothing=0.1), **options)  # type: ignore[call-arg]
    module.configure_model()
    module.metrics.record = lambda *_: None  # type: ignore[method-assign]
    module.trainer = cast(Trainer, SimpleNamespace(world_size=1))
    return module


def test_the_loss_is_that_of_each_response() -> None:
    """The weighted mean over pairs of (-p log sigmoid(r_a / tau) - ...) of both responses; a single response counts once."""
    torch.manual_seed(0)
    module = _module(BradleyTerry)
    probability, weight = torch.tensor([1.0, 0.0, 0.7, 1.0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    batch = States(torch.randn(4, 2, 5), torch.zeros(4, 5)).batch(probability, weight=weight)
    batch.pairs[3, 1] = NOBODY
    with torch.no_grad():
        r = module.head.embed(cast(torch.Tensor, batch.states)[:, 1:]).squeeze(-1) / 0.5
        loss = module.training_loss(batch)
        log_odds = module(batch)
    p = 0.9 * probability + 0.1 * (1 - probability)

    def alone(reward: torch.Tensor, won: torch.Tensor) -> torch.Tensor:
        return -won * logsigmoid(reward) - (1 - won) * logsigmoid(-reward)

    both = (alone(r[:, 0], p) + alone(r[:, 1], 1 - p)) / 2
    expected = torch.cat([both[:3], alone(r[3:, 0], p[3:])])
    assert torch.allclose(loss, (expected * weight).sum() / weight.sum(), atol=1e-6)
    assert torch.allclose(log_odds[:3], r[:3, 0] - r[:3, 1], atol=1e-5), "scores stay differences of rewards"


@pytest.mark.parametrize("kind", [GeneralPreference, HybridPreference, PairPreference])
def test_models_that_compare_refuse_it(kind: type[PreferenceModule]) -> None:
    """A general preference model has no reward, and hybrids and pair models compare too."""
    with pytest.raises(ConfigError, match=f"PointwiseLoss needs one reward per response, and {kind.__name__} compares; use BradleyTerry"):
        _module(kind)
