"""Metrics of models that are trained on pairs: loss, accuracy, and the mean probability of what was preferred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from prefrep.data.trees import TreeBatch
from prefrep.modules.base import LanguageModule

Stage = Literal["train", "val", "test"]
NAMES = ("loss", "accuracy", "probability")


class PairMetrics(torch.nn.ModuleDict):
    """Metrics of the stages `val` and `test`, exact over all batches and processes; those of training are means of a batch."""

    def __init__(self) -> None:
        super().__init__({f"{stage}_{name}": MeanMetric() for stage in ("val", "test") for name in NAMES})

    def record(
        self,
        module: LanguageModule,
        stage: Stage,
        loss: Tensor,
        losses: Tensor,
        log_odds: Tensor,
        batch: TreeBatch,
        more: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Log the metrics of a batch.

        Args:
            module: The model.
            stage: What the batch is for.
            loss: Its loss.
            losses: The loss of each pair [P].
            log_odds: That the first response of each pair wins [P].
            batch: The batch.
            more: Other values, logged in training.
        """
        decided = batch.weight * (batch.probability != 0.5)  # a tie has no correct answer
        correct = torch.where(batch.probability > 0.5, log_odds > 0, log_odds < 0).float()
        favoured = torch.where(batch.probability >= 0.5, log_odds, -log_odds).sigmoid()
        if stage == "train":
            values = {
                "loss": loss,
                "accuracy": module.weighted_mean(correct, decided),
                "probability": module.weighted_mean(favoured, decided),
                **(more or {}),
            }
            for name, value in values.items():
                module.log(f"train/{name}", value, batch_size=len(batch), prog_bar=name in NAMES[:2], sync_dist=True)
            return
        weighted = {"loss": (losses, batch.weight), "accuracy": (correct, decided), "probability": (favoured, decided)}
        for name, (numbers, weight) in weighted.items():
            metric = self[f"{stage}_{name}"]
            assert isinstance(metric, MeanMetric)
            metric.update(numbers, weight)
            module.log(f"{stage}/{name}", metric, batch_size=len(batch), prog_bar=name in NAMES[:2], on_step=False, on_epoch=True)
