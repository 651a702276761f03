"""Whom a model knows, from its data or from its checkpoint."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from prefrep.annotators import Annotators
from prefrep.data.preference import PreferenceData
from prefrep.errors import CheckpointError
from prefrep.nn.people import annotators_of, introduce


def meet(module: LightningModule, head: nn.Module) -> None:
    """Introduce the annotators of the training data to a head that asks who judged; one that is loaded afterwards brings its own."""
    if annotators_of(head) is not None and module._trainer is not None:
        data = getattr(module.trainer, "datamodule", None)
        if isinstance(data, PreferenceData):
            introduce(head, data.annotators())


def note(checkpoint: dict[str, Any], head: nn.Module) -> None:
    """Note in a checkpoint whom a head knows."""
    if (known := annotators_of(head)) is not None:
        checkpoint["annotators"] = dict(known.labels)


def recall(checkpoint: dict[str, Any], head: nn.Module) -> None:
    """Introduce the annotators of a checkpoint to a head that knows nobody, since no training data are named.

    Raises:
        CheckpointError: The head knows others, or in another order.
    """
    present, known = annotators_of(head), checkpoint.get("annotators")
    if present is None or known is None:
        return
    if not len(present):
        introduce(head, Annotators(known))
    elif list(known) != list(present.names):
        raise CheckpointError(
            f"the checkpoint knows {len(known)} annotators, and these data have {len(present)}, or others; resume with the data that it "
            "was trained on"
        )
