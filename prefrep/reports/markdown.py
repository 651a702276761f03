"""Reports as Markdown, with plots as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prefrep.disk import replace_text
from prefrep.reports.document import Block, Example, Folded, Notes, Plot, Section, Table, Text, is_number

# Underscores within a word are not emphasis, and most ampersands not entities: names stay readable.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")


def render(report: Section, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return the text, and its plots by file name.

    Args:
        report: The report.
        folder: Folder of the plots, relative to the text.
    """
    plots: dict[str, bytes] = {}
    return "\n\n".join(_section(report, 1, folder, plots)) + "\n", plots


def write(report: Section, out: Path) -> None:
    """Write a report, and its plots into a folder beside it; plots of an older report of the same name are removed.

    Args:
        report: The report.
        out: The Markdown file, NAME.md; the folder is NAME-plots.
    """
    folder = out.with_name(f"{out.stem}-plots")
    text, plots = render(report, folder.name)
    for old in folder.glob("[0-9][0-9]-*"):
        if old.name not in plots:
            old.unlink()
    if plots:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in plots.items():
        (folder / name).write_bytes(content)
    replace_text(out, text)


def escaped(text: str) -> str:
    """Return text escaped for one line of Markdown."""
    return re.sub(r"^(\d*)([#+.)=-]+)(?=\s|$)", r"\1\\\2", _SPECIAL.sub(r"\\\1", " ".join(text.split())))


def fenced(text: str) -> str:
    """Return text as a fenced block whose fence is longer than any fence in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _section(section: Section, level: int, folder: str, plots: dict[str, bytes]) -> Iterator[str]:
    yield f"{'#' * min(level, 6)} {escaped(section.title)}"
    for block in section.blocks:
        if isinstance(block, Section):
            yield from _section(block, level + 1, folder, plots)
        else:
            yield _block(block, folder, plots)


def _block(block: Block, folder: str, plots: dict[str, bytes]) -> str:
    match block:
        case Text():
            return f"**{escaped(block.text)}**" if block.strong else escaped(block.text)
        case Notes():
            return "\n".join(f"- {escaped(item)}" for item in block.items)
        case Table():
            line = "|" + "|".join(" ---: " if right else " --- " for right in block.numeric) + "|"
            return "\n".join([_row(block.head), line, *map(_row, block.rows)])
        case Plot():
            name = f"{len(plots) + 1:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', block.name)}.{block.format}"
            plots[name] = block.content
            return f"![{escaped(block.caption)}](<{folder}/{name}>)\n\n*{escaped(block.caption)}*"
        case Folded():
            return f"<details><summary>{escaped(block.title)}</summary>\n\n{fenced(block.text)}\n\n</details>"
        case Example():
            return "\n\n".join([escaped(block.title), *(f"{escaped(name)}:\n\n{fenced(text)}" for name, text in block.parts)])
        case Section():
            raise TypeError("sections are rendered with their level")


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell if is_number(cell) else escaped(cell) for cell in cells)} |"  # intervals need no backslashes
