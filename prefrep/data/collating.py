"""Batches of encoded preference data: from token ids, from hidden states that are known, and for policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefrep.annotators import Annotators
from prefrep.data.features import Features, root
from prefrep.data.identity import identity
from prefrep.data.offline import PolicyTexts
from prefrep.data.readers import GivenReader
from prefrep.data.remember import look_up
from prefrep.data.trees import Datum, Layout, TreeBatch, collate

Rows = list[tuple[int, bool]]  # indices of records, and whether they count


def together(rows: Rows, data: Sequence[Datum], how: tuple[int, Layout, int], annotators: Annotators | None) -> TreeBatch:
    """Collate records; `how`: padding, layout and capacity of rows, see `collate`."""
    chosen = _chosen(rows, data)
    return collate(chosen, *how, share=True).asking(chosen, annotators)


def known(rows: Rows, data: Sequence[Datum], features: Features, annotators: Annotators | None) -> TreeBatch:
    """Collate what `remember` returned, with hidden states."""
    chosen = _chosen(rows, data)
    return look_up(chosen, features).asking(chosen, annotators)


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
