"""The E-step of mixtures, between the epochs of `fit`, which are the M-steps."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError, require_at_least
from prefrep.modules.mixture import Mixture

log = logging.getLogger(__name__)


class ExpectTypes(Callback):
    """Expectation-maximisation (arXiv:2405.15065): before an epoch, responsibilities of annotators follow from the present heads.

    p(z | u) is proportional to prior_z times the likelihood of u's labels under type z. It costs a pass over the training data, which is
    quick where the language model is frozen and its states are kept.

    Args:
        every: Epochs of an M-step. The first begins with random responsibilities.

    Raises:
        UsageError: every is below 1.
    """

    def __init__(self, every: int = 1) -> None:
        require_at_least("ExpectTypes.every", every, 1)
        self.every = every

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before training where types cannot be told apart.

        Raises:
            ConfigError: The model is no mixture.
        """
        if not isinstance(pl_module, Mixture):
            raise ConfigError(
                f"ExpectTypes is for MixturePreference or MixtureAlignment, and this is a {type(pl_module).__name__}; remove the callback"
            )
        types = pl_module.types
        if not types.told_apart():
            single = sum(count == 1 for count in types.annotators.labels.values())
            log.warning(
                "types cannot be told apart: %d of %d annotators have a single label, which fits a type and its opposite alike; "
                "two labels for each, or a head that knows the groups, would do", single, len(types.annotators),
            )  # fmt: skip

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update responsibilities."""
        module, epoch = pl_module, trainer.current_epoch
        assert isinstance(module, Mixture)
        if epoch == 0 or epoch % self.every:
            return
        types = module.types
        total = torch.zeros_like(types.responsibilities)
        data = cast(PreferenceData, trainer.datamodule)  # type: ignore[attr-defined]
        module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in data.train_dataloader():
                there = batch.to(module.device)
                known = there.annotator >= 0
                total.index_add_(0, there.annotator[known], module.log_likelihood(there)[known].to(total.dtype))
        module.train()
        total = cast(Any, trainer.strategy).reduce(total, reduce_op="sum")
        likelihood = types.expect(total)
        module.log("train/log_likelihood", likelihood / max(sum(types.annotators.labels.values()), 1), batch_size=1)
