"""Training of heads on cached hidden states, for studies with a frozen language model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prefrep.data.trees import TreeBatch
from prefrep.modules.preference import PreferenceModule


def train(module: PreferenceModule, batches: Sequence[TreeBatch], seed: int = 0) -> PreferenceModule:
    """Train a model on the CPU.

    Args:
        module: The model; its backbone is frozen.
        batches: Comparisons with their hidden states, from a `modules.remembered.Reading`, of each optimizer step: `[batch] * steps` for
            the same in every step. Gradients are clipped at norm 1.
        seed: Seed of the head.

    Returns:
        The same model, in evaluation mode.
    """
    # They would report the hardware, the end of training and the state of the cache again for every head.
    for noisy in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "prefrep.data.remember"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=1.0, default_root_dir=folder,
        )  # fmt: skip
        torch.manual_seed(seed)
        steps = _Steps(batches)
        trainer.fit(module, DataLoader(steps, batch_size=None))
        steps.batches = ()  # a trainer is a circle of references, and stays in memory until Python looks for such
    return module.eval()


class _Steps(Dataset[TreeBatch]):
    """Batches by the number of their step."""

    def __init__(self, batches: Sequence[TreeBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> TreeBatch:
        return self.batches[step]


@torch.no_grad()
def correct(module: PreferenceModule, batch: TreeBatch) -> Tensor:
    """Return whether the preferred response of each comparison scores strictly higher, bool [P]."""
    log_odds: Tensor = module(batch)
    return log_odds > 0
