"""Rows <-> labelled pairs: what `prefrep label` reads, and what it writes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import groupby
from operator import attrgetter
from types import NoneType
from typing import Any, Literal

import numpy as np

from prefrep.console import progress
from prefrep.data import cyclic
from prefrep.data.fields import SOFT_LABELS
from prefrep.data.files import parts
from prefrep.data.formats import to_records
from prefrep.data.mapped import Mapped
from prefrep.data.sources import Source, files_of, located, read, under_our_names
from prefrep.data.spool import Spool
from prefrep.errors import PrefrepError, RecordError
from prefrep.records import Comparison, Record, preferred, turns

_NUMBERS = ("probability", "margin", "weight")
_NAMES = ("id", "subset", "annotator", "group", "criterion", "label_source", "strength")


@dataclass(frozen=True)
class Labelled:
    """A pair on its way through the steps.

    Args:
        comparison: The pair with its present labels.
        row: The row it was read from; None: the row holds something else than one pair, or there is none.
        columns: New columns of the row.
        scores: Published scores of (chosen, rejected), of ranked responses.
    """

    comparison: Comparison
    row: Mapping[str, Any] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[float, float] | None = None

    @property
    def sign(self) -> int:
        """1: the label prefers `chosen`; -1: it prefers `rejected`; 0: it is a tie."""
        return (self.comparison.probability > 0.5) - (self.comparison.probability < 0.5)

    def relabelled(self, **labels: float) -> Labelled:
        """Return the pair with another `probability`, `margin` or `weight`."""
        return replace(self, comparison=replace(self.comparison, **{name: float(value) for name, value in labels.items()}))  # type: ignore[arg-type]

    def noted(self, **columns: Any) -> Labelled:
        """Return the pair with more columns, which are plain data."""
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in columns.items()}
        return replace(self, columns={**self.columns, **plain})


def pairs_of(record: Record) -> list[Labelled]:
    """Return the pairs of a record: itself, or the pairs of ranked responses with unequal scores, the better one first."""
    if isinstance(record, Comparison):
        return [Labelled(record)]
    names = {name: getattr(record, name) for name in ("subset", "source", "tags", "annotator", "group", "criterion", "label_source")}
    names["template_kwargs"] = record.template_kwargs
    scores = record.scores or ()
    ids = ((i, j, f"{record.id}:{i}:{j}" if record.id else "") for i, j in preferred(scores))
    return [
        Labelled(Comparison(record.prompt, record.responses[i], record.responses[j], id=id, **names), scores=(scores[i], scores[j]))
        for i, j, id in ids
    ]


def comparisons(pairs: Sequence[Labelled]) -> Mapped[Comparison]:
    """Return the comparisons of pairs with their present labels, which stay where the pairs are."""
    return Mapped(pairs, attrgetter("comparison"))


def winner_first(each: Labelled) -> Comparison:
    """Return the comparison of a pair that has a winner, with the winner as `chosen`."""
    return each.comparison if each.sign > 0 else swapped(each.comparison)


def swapped(pair: Comparison) -> Comparison:
    """Return the same comparison with its responses exchanged."""
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, probability=1 - pair.probability)


def read_pairs(
    source: Source, on_bad_row: Literal["error", "skip"] = "error", skipped: list[RecordError] | None = None
) -> Sequence[Labelled]:
    """Read the pairs of a source, with their rows where a row is one pair; arguments and errors as in `data.sources.read`.

    They are kept in a temporary file (`data.spool`).
    """
    records = progress(read(source, on_bad_row, skipped), f"reading {source.path}", "records")
    return Spool(_with_rows(records, _rows(source)))


def _rows(source: Source) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the rows of a source under our names, with their places; none where rows are written in our own format or from the hub."""
    if source.path.startswith(cyclic.PREFIX) or not files_of(source.path, source.split):
        return
    for _, found in parts(located(source.path), source.split, source.streaming):
        for row, place in found:
            if isinstance(row, RecordError):
                continue
            with suppress(RecordError):  # `read` has told of it
                yield under_our_names(row, source.columns, place), place


def _with_rows(records: Iterable[Record], rows: Iterator[tuple[Mapping[str, Any], str]]) -> Iterator[Labelled]:
    """Yield the pairs of records, which are in the order of their rows; a row can hold the judgements of several annotators."""
    for place, group in groupby(records, key=lambda record: record.source):
        first, *more = group
        row = next((_storable(row) for row, at in rows if at == place), None)
        for record in (first, *more):
            yield from (replace(pair, row=None if more else row) if record is pair.comparison else pair for pair in pairs_of(record))


def _storable(value: Any) -> Any:
    """Return a value of a row without times of other libraries and their zones, which `Spool` does not take."""
    if isinstance(value, dict):
        return {name: _storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_storable(each) for each in value]
    if isinstance(value, datetime) and not (type(value) is datetime and type(value.tzinfo) in (NoneType, timezone)):
        return datetime.fromisoformat(value.isoformat())
    return value


def written(labelled: Sequence[Labelled], format: str = "auto") -> Iterator[dict[str, Any]]:
    """Yield the rows to write: the rows that were read with their new columns, if prefrep reads the labels back from them.

    Otherwise (pairs without a row of their own, or formats that have no column for a label) all rows are conversations, `chosen` and
    `rejected` with the prompt in both, which hold pairs of every kind in one file.

    Args:
        labelled: The pairs.
        format: Format of the rows that were read.
    """
    if all(_reads_back(each, format) for each in labelled):
        yield from (row for each in labelled if (row := _own(each)) is not None)
    else:
        yield from (_conversation(each) | dict(each.columns) for each in labelled)


def _reads_back(labelled: Labelled, format: str) -> bool:
    """Return whether a pair has a row of its own, from which prefrep reads its texts and labels."""
    row, pair = _own(labelled), labelled.comparison
    if row is None:
        return False
    try:
        found = to_records(row, format, "")
    except PrefrepError:
        return False
    return (
        len(found) == 1
        and isinstance(found[0], Comparison)
        and (found[0].prompt, found[0].chosen, found[0].rejected) == (pair.prompt, pair.chosen, pair.rejected)
        and all(getattr(found[0], name) == getattr(pair, name) for name in _NUMBERS)
    )


def _own(labelled: Labelled) -> dict[str, Any] | None:
    if labelled.row is None:
        return None
    row = {**labelled.row, **labelled.columns}
    name = next((name for name in SOFT_LABELS if labelled.row.get(name) is not None), "probability")
    for key, (value, default) in _labels(labelled.comparison).items():
        column = name if key == "probability" else key
        if value != default or row.get(column) is not None:
            row[column] = value
    try:
        json.dumps(row)
    except (TypeError, ValueError):  # tables hold values that JSON does not
        return None
    return row


def _labels(pair: Comparison) -> dict[str, tuple[float, float]]:
    return {"probability": (pair.probability, 1.0), "margin": (pair.margin, 0.0), "weight": (pair.weight, 1.0)}


def _conversation(labelled: Labelled) -> dict[str, Any]:
    pair = labelled.comparison
    names = {name: value for name in _NAMES if (value := getattr(pair, name)) not in ("", None)}
    names |= {"tags": dict(pair.tags)} if pair.tags else {}
    names |= {"chat_template_kwargs": dict(pair.template_kwargs)} if pair.template_kwargs else {}
    labels = {key: value for key, (value, default) in _labels(pair).items() if value != default}
    row = {"chosen": turns(pair.prompt + pair.chosen), "rejected": turns(pair.prompt + pair.rejected), **names, **labels}
    return row | ({"source": pair.source} if pair.source else {})
