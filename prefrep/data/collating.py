"""Batches of encoded preference data: from token ids, from hidden states that are known, and for policies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torch.distributed.tensor import DTensor

from prefrep.annotators import Annotators
from prefrep.data.encode import pad_id
from prefrep.data.features import Features, root
from prefrep.data.identity import Reads, identity
from prefrep.data.offline import PolicyTexts
from prefrep.data.readers import GivenReader, Reader
from prefrep.data.remember import look_up, remember
from prefrep.data.trees import Datum, Layout, TreeBatch, collate

log = logging.getLogger(__name__)

Rows = list[tuple[int, bool]]  # indices of records, and whether they count


def together(rows: Rows, data: Sequence[Datum], how: tuple[int, Layout, int], annotators: Annotators | None) -> TreeBatch:
    """Collate records; `how`: padding, layout and capacity of rows, see `collate`."""
    chosen = _chosen(rows, data)
    return collate(chosen, *how, share=True).asking(chosen, annotators)


def _chosen(rows: Rows, data: Sequence[Datum]) -> list[Datum]:
    return [data[i] if counts else data[i].unweighted() for i, counts in rows]


def for_policy(texts: PolicyTexts, reader: GivenReader, trainer: Any, cache: str | None, what: str) -> Callable[[Rows], TreeBatch]:
    """Return the function that collates records for a policy; log pi_0 is measured first, where a loss needs it and the disk lacks it.

    Args:
        texts: The records.
        reader: The policy.
        trainer: Its trainer.
        cache: See `PreferenceData`. Without a cache, log pi_0 stays in the run's folder.
        what: Name of the data.
    """
    reference: Features | None = None
    if texts.reading.reference:
        with reader.initial_logprobs() as (backbone, read):
            about = identity(backbone, reader.device.type, adapters=False) | {"kept": "log-probabilities"}
            folder = Path(trainer.default_root_dir) / "reference" if cache is None else root(cache)
            reference = Features(folder, about)
            share = (trainer.global_rank, trainer.world_size)
            texts.measure(reference, read, what, share=share, wait=trainer.strategy.barrier)
    return partial(texts.batch, reference=reference, annotators=reader.annotators)


class Remembered:
    """The hidden states of frozen backbones: each text is read once over all epochs, splits and runs (`data.features`)."""

    def __init__(self) -> None:
        self._features: tuple[dict[str, str], Features] | None = None
        self._rows: dict[str, tuple[Sequence[Datum], list[Datum]]] = {}  # of each split: what was read, and what `remember` made of it

    def batches(
        self, name: str, data: Sequence[Datum], reader: Reader, trainer: Any, cache: str, layout: Layout, row_tokens: int
    ) -> Callable[[Rows], TreeBatch]:
        """Return the function that collates records with their states, once those that are missing were read.

        Args:
            name: Name of the data.
            data: The encoded records.
            reader: The model.
            trainer: Its trainer.
            cache: See `PreferenceData`.
            layout: Layout of the batches that are read.
            row_tokens: See `PreferenceData`.
        """
        precision = trainer.precision_plugin.forward_context
        with precision():
            about = identity(cast(Reads, reader.backbone), reader.device.type)
        if self._features is None or self._features[0] != about:
            self._features = about, Features(root(cache), about)
            self._rows.clear()
        features = self._features[1]

        def read(batch: TreeBatch) -> Tensor:
            with precision():
                return reader.hidden(batch.to(reader.device))

        if name not in self._rows or self._rows[name][0] is not data:
            rows = remember(
                data, features, read, pad_id(reader.tokenizer), layout, row_tokens, what=name,
                share=(trainer.global_rank, trainer.world_size), wait=trainer.strategy.barrier,
            )  # fmt: skip
            self._rows[name] = data, rows
        return partial(_known, data=self._rows[name][1], features=features, annotators=reader.annotators)


def rememberable(backbone: Any) -> bool:
    """Return whether the states of a backbone stay the same, and are whole: it is frozen, and not sharded over processes."""
    if not backbone.frozen:
        return False
    sharded = any(isinstance(parameter, DTensor) for parameter in backbone.parameters())
    if sharded:
        log.info("the backbone is sharded over processes: its hidden states are not cached")
    return not sharded


def _known(rows: Rows, data: Sequence[Datum], features: Features, annotators: Annotators | None) -> TreeBatch:
    """Collate what `remember` returned, with hidden states."""
    chosen = _chosen(rows, data)
    return look_up(chosen, features).asking(chosen, annotators)
