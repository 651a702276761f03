"""The content of a report, independent of its format: sections of paragraphs, tables, plots and examples."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from prefrep.metrics.intervals import Interval

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( : \d+)?|\[[-+.\w]+, [-+.\w]+\]|-|")


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Args:
        text: The text.
        strong: Whether it is emphasised.
    """

    kind: ClassVar[str] = "text"

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Notes:
    """A list of remarks.

    Args:
        items: One sentence or two each.
    """

    kind: ClassVar[str] = "notes"

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: Names of the columns.
        rows: Cells, one per column.
    """

    kind: ClassVar[str] = "table"

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether it holds only numbers and intervals."""
        return tuple(all(is_number(row[i]) for row in self.rows) for i in range(len(self.head)))


@dataclass(frozen=True)
class Plot:
    """A picture.

    Args:
        name: Name of its file without the suffix.
        content: The file.
        format: Its format.
        caption: What it shows; also the alternative text.
    """

    kind: ClassVar[str] = "plot"

    name: str
    content: bytes
    format: Literal["svg", "png"]
    caption: str

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        mime = "image/svg+xml" if self.format == "svg" else "image/png"
        return f"data:{mime};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Folded:
    """A long text that is collapsed at first.

    Args:
        title: Title of the text.
        text: The text, shown verbatim.
    """

    kind: ClassVar[str] = "folded"

    title: str
    text: str


@dataclass(frozen=True)
class Example:
    """One datum.

    Args:
        title: What happened to the datum.
        parts: Texts by name.
    """

    kind: ClassVar[str] = "example"

    title: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it.

    Args:
        title: The heading.
        blocks: The blocks below it.
    """

    kind: ClassVar[str] = "section"

    title: str
    blocks: tuple[Block, ...] = field(default=())


Block = Text | Notes | Table | Plot | Folded | Example | Section


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of sequences of cells."""
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def notes(items: Sequence[str]) -> tuple[Notes, ...]:
    """Return a list of remarks, or nothing if there are none."""
    return (Notes(tuple(items)),) if items else ()


def is_number(cell: str) -> bool:
    """Return whether a cell holds a number, a pair of counts, an interval, or nothing."""
    return _NUMBER.fullmatch(cell) is not None


def number(value: float) -> str:
    """Return a share, a score or a difference as reports show it."""
    return f"{value:z.3f}"  # differences that cancel can have the mean -1e-17, which must not print as -0.000


def interval(value: Interval | Sequence[float] | None) -> str:
    """Return a 95 % interval as reports show it; a dash if there is none."""
    return "-" if value is None else f"[{number(value[0])}, {number(value[1])}]"


def measured(value: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Return n, score and interval of an entry of `results.json`; dashes if nothing was measured."""
    if value is None or value["score"] is None:
        return "0", "-", "-"
    return str(value["n"]), number(value["score"]), interval(value["ci95"])
