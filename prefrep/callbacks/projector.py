"""Embeddings of responses, for TensorBoard's projector."""

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

from prefrep.data.encode import Encoder
from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.sharding import is_sharded
from prefrep.records import Comparison, Record, text

log = logging.getLogger(__name__)

TAG = "responses"
CUT = 200  # characters of a text
SHOWN = 3  # numbers of a vector: the projector draws three principal components, and nothing at all where there are two


class Point(NamedTuple):
    """What the projector says of an embedding.

    Args:
        id: Of the record.
        subset: That it belongs to.
        role: `chosen`, `rejected`, or the score of one of several responses.
        text: The response.
    """

    id: str
    subset: str
    role: str
    text: str


class Projector(Callback):
    """Writes embeddings of validation responses beside the training curves when training ends: tab "Projector" of TensorBoard.

    The vectors are what the head compares, D numbers a response, with the final weights. Where that is one number (Bradley-Terry), they are
    the hidden states that the head reads. A pair model has no embedding of one response, so nothing is written.

    Args:
        records: From so many records of the validation data, the first ones.
    """

    def __init__(self, records: int = 250) -> None:
        if records < 1:
            raise ConfigError(f"Projector.records must be 1 or more, got {records}")
        self.records = records

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the embeddings, in process 0, of its share of the data."""
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
    """Why there is nothing to write, or nothing to write to; empty when there is."""
    if not loggers:
        return "there is no TensorBoardLogger"
    if data._sources["val"] is None:
        return "no validation data are named"
    if module.layout == "pair":
        return "a pair model reads two responses at once and has no embedding of one"
    return "the weights are spread over processes" if is_sharded(module) else ""


@torch.no_grad()
def embeddings(trainer: Trainer, module: PreferenceModule, data: PreferenceData, records: int) -> tuple[Tensor, list[Point]]:
    """Embeddings of the responses of the first validation records, and what each is.

    Args:
        trainer: Says in which precision.
        module: A model that reads single responses.
        data: Its data; what a frozen language model has read is not read again.
        records: So many.

    Returns:
        [M, D] embeddings, or [M, H] hidden states where D is 1, in fp32 on the CPU; and M points.
    """
    encoder = Encoder(module.tokenizer, data.encode_config, "single")
    known = [record for _, record, _ in islice(data.encoded("val", data._read("val"), encoder), records)]
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
    """One for each response, in the order in which they are encoded."""
    if isinstance(record, Comparison):
        each = [("chosen", record.chosen), ("rejected", record.rejected)]
    else:
        scores = record.scores or [0.0] * len(record.responses)
        each = [(f"score {score:g}", response) for score, response in zip(scores, record.responses, strict=True)]
    for role, response in each:
        # An empty cell would move the others: lines are cells between tabs.
        yield Point(record.id or record.source or "-", record.subset or "-", role, " ".join(text(response).split())[:CUT] or "-")
