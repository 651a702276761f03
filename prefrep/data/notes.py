"""Findings about a source beside its records: formats, unread columns, rows that look like another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefrep.data.formats import every, fitting, looks_like, to_records
from prefrep.data.turns import TURN_FIELDS, Row
from prefrep.errors import RecordError
from prefrep.records import Record

SAMPLE = 32  # rows that determine the format of a file


@dataclass
class Notes:
    """Findings about a source.

    Attributes:
        formats: Records by format.
        rivals: Files whose first rows also fit another format that would read them differently, by (format, other format).
        others: Rows by the format that they look like, if it is not that of the file.
        unread: Rows by column that the format does not read, `column[].field` for fields of messages.
        criteria: Records by criterion, before `criterion` selects.
    """

    formats: Counter[str] = field(default_factory=Counter)
    rivals: Counter[tuple[str, str]] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    criteria: Counter[str] = field(default_factory=Counter)


class Tracked(dict[str, Any]):
    """A row that records which of its columns were read."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or the default if there is none."""
        self.read.add(name)
        return super().get(name, default)

    def unread(self) -> list[str]:
        """Return the columns with values that were not read, and fields of messages that no format reads."""
        found = [str(name) for name, value in self.items() if name not in self.read and value not in (None, "", [], {})]
        for name, value in self.items():
            turns = [turn for turn in value if isinstance(turn, Mapping) and "role" in turn] if isinstance(value, list) else []
            keys = {str(key) for turn in turns if "content" in turn for key, inner in turn.items() if inner is not None}
            if name in self.read:
                found += [f"{name}[].{key}" for key in sorted(keys - {"role", "content", *TURN_FIELDS})]
        return found


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
