"""The output of `prefrep score`: a file of JSON lines that grows, and that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from prefrep.data.sources import Source, files_of, read
from prefrep.disk import claim, keep_lines
from prefrep.errors import DataError
from prefrep.records import Record
from prefrep.room import saving
from prefrep.scoring.interface import WINDOW, PreferenceScorer
from prefrep.scoring.lines import Asks, lines
from prefrep.scoring.loading import fingerprint_of
from prefrep.writers import leave


def write(out: Path, model: str, source: Source, settings: str, tables: bool, load: Callable[[], PreferenceScorer], asks: Asks) -> Path:
    """Score a source into a file.

    Args:
        out: The file; rows that an interrupted run of the same model, data and settings left are kept.
        model: Exported folder, or URL of a server.
        source: What is scored.
        settings: Options that move what is written, in words.
        tables: With K responses, also write the K x K table.
        load: Loads the scorer, once it is needed.
        asks: Who is asked.

    Returns:
        The file.

    Raises:
        PrefrepError: The file belongs to something else, or what reading and scoring raise.
    """
    if out.name.endswith(".gz"):
        raise DataError(f"{out}: the output is plain text, since a half-written file is continued; drop .gz from its name")
    note = out.with_name(out.name + ".about.json")
    claim(out, note, _belongs_to(model, source, settings), "name another --out or delete it")
    there = _whole_rows(out) if out.exists() else 0
    rest = _rest(iter(read(source)), there)
    if rest is None:
        print(f"{out}: all {there} rows are there already")
        return out
    done, records = rest
    keep_lines(out, done)
    if done:
        print(f"{out}: {done} rows are there already, going on after them")
    from tqdm import tqdm

    found = tqdm(lines(load(), records, tables, asks), "scoring", unit=" rows", initial=done)
    with saving(out):
        file = out.open("a")
    try:
        for row, line in enumerate(found, start=done):
            whole = (row + 1) % WINDOW == 0
            with saving(out):
                print(json.dumps({"row": row, **line}), file=file, flush=whole)
            if whole:
                leave()
    finally:
        with saving(out):
            file.close()
    return out


def _rest(records: Iterator[Record], there: int) -> tuple[int, Iterator[Record]] | None:
    """Return how many of the rows that are there to keep, and the records behind them; None: nothing is left to score.

    Only whole windows are kept: a resumed file is then, to the last bit, the one that an uninterrupted run writes. `lines` scores
    neighbours of one kind in windows of their own.
    """
    window: list[Record] = []

    def begins(record: Record) -> bool:
        return len(window) == WINDOW or (bool(window) and type(record) is not type(window[0]))

    for record in islice(records, there):
        if begins(record):
            window.clear()
        window.append(record)
    following = next(records, None)
    if following is None and there:
        return None
    if following is None or begins(following):
        window.clear()
    behind = () if following is None else (following,)
    return there - len(window), chain(window, behind, records)


def _belongs_to(model: str, source: Source, settings: str) -> dict[str, str]:
    """What the rows of an output follow from: the model, by its bytes, the data, and what is written of them."""
    data = source.path
    return {
        "model": f"{os.path.realpath(model) if os.path.exists(model) else model} ({fingerprint_of(model)[:16]})",
        "data": f"{os.path.realpath(data) if os.path.exists(data) else data} ({_digest(data)})",
        "settings": settings,
    }


def _digest(data: str) -> str:
    """Tells files from others: size, first and last megabyte of each, so that files of any length cost nothing."""
    digest, end, files = hashlib.sha256(), 1 << 20, files_of(data)
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as content:
            digest.update(f"{file.name if len(files) > 1 else ''}:{size}:".encode() + content.read(end))
            content.seek(max(size - end, 0))
            digest.update(content.read(end))
    return digest.hexdigest()[:16] if files else "by name"


def _whole_rows(out: Path) -> int:
    """Rows of a file that are written to their end; the program may have been killed in the last one."""
    rows = 0
    with out.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)["row"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{out}:{rows + 1}: not a line that this program wrote; name another --out or delete it") from None
            if row != rows:
                raise DataError(f"{out}:{rows + 1}: row {row} stands where row {rows} belongs; delete the file and start again")
            rows += 1
    return rows
