"""Response embeddings for the TensorBoard projector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.sharding import is_sharded
from prefrep.records import Comparison, Record, text

log = logging.getLogger(__name__)

TAG = "responses"
CUT = 200  # characters shown of a response
SHOWN = 3  # the projector draws three principal components, and nothing for vectors of fewer


class Point(NamedTuple):
    """Metadata of an embedding.

    Args:
        id: Id of the record.
        subset: Subset of the record.
        role: `chosen`, `rejected`, or the score of a ranked response.
        text: The response.
    """

    id: str
    subset: str
    role: str
    text: str


class Projector(Callback):
    """Embeddings of validation responses in TensorBoard's projector tab, written when training ends.

    The vectors are the [D] embeddings that the head compares, under the final weights. Heads with D = 1 (Bradley-Terry) get the hidden
    states that they read instead. Pair models embed no single response, so nothing is written.

    Args:
        records: Number of validation records, from the first one.

    Raises:
        ConfigError: `records` is out of range.
    """

    def __init__(self, records: int = 250) -> None:
        if records < 1:
            raise ConfigError(f"Projector.records must be 1 or more, got {records}")
        self.records = records

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the embeddings of rank 0's share of the data."""
        run = cast(Any, trainer)
        if run.fast_dev_run or trainer.interrupted or not trainer.is_global_zero:
            return
        module, data = cast(PreferenceModule, pl_module), cast(PreferenceData, run.datamodule)
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if reason := _silent(module, data, loggers):
            log.info("no embeddings for the projector: %s", reason)
            return
        vectors, points = embeddings(trainer, module, data, self.records)
        if vectors.shape[1] < SHOWN:
            vectors = functional.pad(vectors, (0, SHOWN - vectors.shape[1]))
        for logger in loggers:
            logger.experiment.add_embedding(
                vectors, [list(point) for point in points], metadata_header=list(Point._fields), tag=TAG, global_step=trainer.global_step
            )
            logger.experiment.flush()


def _silent(module: PreferenceModule, data: PreferenceData, loggers: Sequence[TensorBoardLogger]) -> str:
    """Return why nothing can be written; empty if it can."""
    if not loggers:
        return "there is no TensorBoardLogger"
    if data._sources["val"] is None:
        return "there are no validation data"
    if module.layout == "pair":
        return "a pair model does not embed single responses"
    return "the weights are sharded" if is_sharded(module) else ""


@torch.no_grad()
def embeddings(trainer: Trainer, module: PreferenceModule, data: PreferenceData, records: int) -> tuple[Tensor, list[Point]]:
    """Return embeddings of the responses of the first validation records, with their metadata.

    Args:
        trainer: The trainer, for its precision.
        module: A model that reads single responses.
        data: The data; cached hidden states of a frozen backbone are reused.
        records: Number of records.

    Returns:
        fp32 embeddings [M, D] on the CPU, hidden states [M, H] if D is 1; and M points.
    """
    known = [record for _, record, _ in islice(data.encoded("val", data.records("val"), data.encoder("val")), records)]
    loader = cast(DataLoader[Any], data.val_dataloader())
    training, found, points = module.training, list[Tensor](), list[Point]()
    module.eval()
    try:
        for drawn, batch in zip(cast(Any, loader.batch_sampler), loader, strict=True):
            there = batch.to(module.device)
            with trainer.precision_plugin.forward_context():
                hidden = module.hidden(there)
                vectors = module.embeddings(hidden, there)[0] if module.head.dim > 1 else hidden[there.end]
            for (index, counts), some in zip(drawn, vectors.float().cpu().split(batch.sizes[:, 0].tolist()), strict=True):
                if counts and index < len(known):
                    found.append(some)
                    points += _points(known[index])
            if max(index for index, _ in drawn) >= len(known) - 1:
                break
    finally:
        module.train(training)
    return torch.cat(found), points


def _points(record: Record) -> Iterator[Point]:
    """Yield one point per response, in encoding order."""
    if isinstance(record, Comparison):
        each = [("chosen", record.chosen), ("rejected", record.rejected)]
    else:
        scores = record.scores or [0.0] * len(record.responses)
        each = [(f"score {score:g}", response) for score, response in zip(scores, record.responses, strict=True)]
    for role, response in each:
        # Metadata are tab-separated, so an empty cell would shift the others.
        yield Point(record.id or record.source or "-", record.subset or "-", role, " ".join(text(response).split())[:CUT] or "-")
