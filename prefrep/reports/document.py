"""What a report says, apart from how it looks: sections of paragraphs, tables, plots and examples."""

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
        text: What it says.
        strong: Whether it is what a reader must not miss.
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
        rows: Cells, as many in each row as there are columns.
    """

    kind: ClassVar[str] = "table"

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers and intervals only."""
        return tuple(all(is_number(row[i]) for row in self.rows) for i in range(len(self.head)))


@dataclass(frozen=True)
class Plot:
    """A picture.

    Args:
        name: What its file is called, without the ending.
        content: The file.
        format: Its format.
        caption: What it shows; also what is read to those who do not see it.
    """

    kind: ClassVar[str] = "plot"

    name: str
    content: bytes
    format: Literal["svg", "png"]
    caption: str

    @property
    def uri(self) -> str:
        """The file as an address that needs no file."""
        mime = "image/svg+xml" if self.format == "svg" else "image/png"
        return f"data:{mime};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Folded:
    """A long text that a reader opens.

    Args:
        title: What it is.
        text: The text, shown as it is.
    """

    kind: ClassVar[str] = "folded"

    title: str
    text: str


@dataclass(frozen=True)
class Example:
    """One datum.

    Args:
        title: What happened to it.
        parts: Texts by name.
    """

    kind: ClassVar[str] = "example"

    title: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Args:
        title: The heading.
        blocks: What stands below it.
    """

    kind: ClassVar[str] = "section"

    title: str
    blocks: tuple[Block, ...] = field(default=())


Block = Text | Notes | Table | Plot | Folded | Example | Section


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of any sequences of cells."""
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def notes(items: Sequence[str]) -> tuple[Notes, ...]:
    """A list of remarks, or nothing where there are none."""
    return (Notes(tuple(items)),) if items else ()


def is_number(cell: str) -> bool:
    """Whether a cell holds a number, a pair of counts, an interval, or nothing."""
    return _NUMBER.fullmatch(cell) is not None


def number(value: float) -> str:
    """A share, a score or a difference as reports show it."""
    return f"{value:z.3f}"  # a mean of differences that cancel is -1e-17, which is no negative number


def interval(value: Interval | Sequence[float] | None) -> str:
    """A 95 % interval as reports show it; a dash where there is none."""
    return "-" if value is None else f"[{number(value[0])}, {number(value[1])}]"


def measured(value: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """n, score and interval of an entry of `results.json`; dashes where nothing was measured."""
    if value is None or value["score"] is None:
        return "0", "-", "-"
    return str(value["n"]), number(value["score"]), interval(value["ci95"])
