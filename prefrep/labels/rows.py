"""Rows <-> labelled pairs: what `prefrep label` reads, and what it writes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prefrep.data.fields import SOFT_LABELS
from prefrep.data.files import parts
from prefrep.data.formats import to_records
from prefrep.data.sources import Source, files_of, located, read
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
        return replace(self, comparison=replace(self.comparison, **labels))  # type: ignore[arg-type]

    def noted(self, **columns: Any) -> Labelled:
        """Return the pair with more columns."""
        return replace(self, columns={**self.columns, **columns})


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


def read_pairs(source: Source, on_bad_row: Literal["error", "skip"] = "error", skipped: list[RecordError] | None = None) -> list[Labelled]:
    """Read the pairs of a source, with their rows where a row is one pair; arguments and errors as in `data.sources.read`."""
    records = list(read(source, on_bad_row, skipped))
    rows: dict[str, Mapping[str, Any]] = {}
    if not source.columns and files_of(source.path):  # renamed columns and rows of the hub are written in our own format
        for _, found in parts(located(source.path), source.split, source.streaming):
            rows |= {place: row for row, place in found if not isinstance(row, RecordError)}
    made = Counter(record.source for record in records)  # a row can hold the judgements of several annotators
    return [
        replace(pair, row=rows.get(record.source)) if record is pair.comparison and made[record.source] == 1 else pair
        for record in records
        for pair in pairs_of(record)
    ]


def written(labelled: Sequence[Labelled], format: str = "auto") -> list[dict[str, Any]]:
    """Return the rows to write: the rows that were read with their new columns, if prefrep reads the labels back from them.

    Otherwise (pairs without a row of their own, or formats that have no column for a label) all rows are conversations, `chosen` and
    `rejected` with the prompt in both, which hold pairs of every kind in one file.

    Args:
        labelled: The pairs.
        format: Format of the rows that were read.
    """
    own = [_own(each) for each in labelled]
    if all(row is not None for row in own) and _read_back([row for row in own if row is not None], labelled, format):
        return [row for row in own if row is not None]
    return [_conversation(each) | dict(each.columns) for each in labelled]


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


def _read_back(rows: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], format: str) -> bool:
    try:
        found = [to_records(row, format, "") for row in rows]
    except PrefrepError:
        return False
    return all(
        len(records) == 1
        and isinstance(records[0], Comparison)
        and (records[0].prompt, records[0].chosen, records[0].rejected) == (pair.prompt, pair.chosen, pair.rejected)
        and all(getattr(records[0], name) == getattr(pair, name) for name in _NUMBERS)
        for records, pair in zip(found, (each.comparison for each in labelled), strict=True)
    )


def _conversation(labelled: Labelled) -> dict[str, Any]:
    pair = labelled.comparison
    names = {name: value for name in _NAMES if (value := getattr(pair, name)) not in ("", None)}
    names |= {"tags": dict(pair.tags)} if pair.tags else {}
    names |= {"chat_template_kwargs": dict(pair.template_kwargs)} if pair.template_kwargs else {}
    labels = {key: value for key, (value, default) in _labels(pair).items() if value != default}
    row = {"chosen": turns(pair.prompt + pair.chosen), "rejected": turns(pair.prompt + pair.rejected), **names, **labels}
    return row | ({"source": pair.source} if pair.source else {})
