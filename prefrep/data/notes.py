"""Findings about a source beside its records: formats, unread columns, rows that look like another format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefrep.data.formats import every, fitting, looks_like, to_records
from prefrep.data.turns import Row
from prefrep.errors import RecordError
from prefrep.records import Record

SAMPLE = 32  # rows that determine the format of a file
_REPEATED = re.compile(r"\b(\w+\[\]\.)\1+")  # replies to replies


@dataclass
class Notes:
    """Findings about a source.

    Attributes:
        rows: Rows that were read, bad ones too.
        formats: Records by format.
        rivals: Files whose first rows also fit another format that would read them differently, by (format, other format).
        others: Rows by the format that they look like, if it is not that of the file.
        unread: Rows by column that the format does not read, `column.field` and `column[].field` for fields of objects in it.
        criteria: Records by criterion, before `criterion` selects.
    """

    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    rivals: Counter[tuple[str, str]] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    criteria: Counter[str] = field(default_factory=Counter)


class Tracked(dict[str, Any]):
    """A row, or an object in one, that records which of its fields were read."""

    def __init__(self, row: Row) -> None:
        super().__init__({name: _tracked(value) for name, value in row.items()})
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or the default if there is none."""
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        """Return all fields, which counts as reading them."""
        self.read.update(self)
        return super().items()

    def unread(self) -> list[str]:
        """Return the fields with values that were not read: `column.field` of objects, `column[].field` of lists of objects."""
        found: dict[str, None] = {}
        for name, value in super().items():
            if name not in self.read:
                found |= {} if value in (None, "", [], {}) else {str(name): None}
            elif isinstance(value, Tracked):
                found |= {f"{name}.{inner}": None for inner in value.unread()}
            elif isinstance(value, list):
                objects = [each for each in value if isinstance(each, Tracked)]
                read = set().union(*(each.read for each in objects))  # of one of them is enough
                inner = dict.fromkeys(field for each in objects for field in each.unread() if field not in read)
                found |= {_REPEATED.sub(r"\1", f"{name}[].{field}"): None for field in inner}
        return list(found)


def _tracked(value: Any) -> Any:
    if isinstance(value, list):
        return [_tracked(inner) for inner in value]
    return Tracked(value) if isinstance(value, Mapping) else value


def format_of(rows: Sequence[Row]) -> str | None:
    """Return the format that most rows look like, the first one seen if several tie; None: no row fits any."""
    votes = Counter(found for row in rows if (found := looks_like(row)) is not None)
    return votes.most_common(1)[0][0] if votes else None


def rival(rows: Sequence[Row], format: str) -> str | None:
    """Return another format that fits all rows and would read the first one differently; None: there is none."""
    if not rows:
        return None
    own = _converted(rows[0], format)
    for name in fitting(rows[0]):
        if name != format and not every()[name].generic and all(every()[name].fits(row) for row in rows):
            other = _converted(rows[0], name)
            if other is not None and other != own:
                return name
    return None


def _converted(row: Row, format: str) -> Sequence[Record] | None:
    try:
        return to_records(row, format, "")
    except RecordError:
        return None
