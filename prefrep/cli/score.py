"""`bin/score`: scores a file of any length with an exported model."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefrep.cli import friendly
from prefrep.cli.options import add_loading, add_workers
from prefrep.disk import keep_lines
from prefrep.errors import DataError
from prefrep.records import Comparison, RankedResponses, Record
from prefrep.scoring.workers import WINDOW, Loading, Workers, start

if TYPE_CHECKING:
    from prefrep.scoring import Scorer


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(prog="bin/score", description=__doc__)
    it.add_argument("--model", required=True, help="exported folder")
    it.add_argument("--data", required=True, help="JSONL(.gz), JSON, Parquet, folder or hub id: pairs, or K responses per prompt")
    it.add_argument("--out", required=True, help="JSONL to write; a half-written one is continued")
    it.add_argument("--format", default="auto", help="format of the rows (default: told from the columns)")
    it.add_argument("--tables", action="store_true", help="with K responses: write the whole K x K table of log-odds too")
    add_workers(add_loading(it))
    return it


def main(args: list[str] | None = None) -> int:
    """Scores a file.

    A pair gives `{"row", "id", "score"}`, the log-odds of chosen over rejected; K responses give `{"row", "id", "scores", "order"}`: the
    mean log-odds of each response against all K (itself included, as in GPO) and the indices from best to worst. `row` counts from 0.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.

    Raises:
        PrefrepError: Model or data cannot be used.
    """
    options = parser().parse_args(args)
    from prefrep.cli.main import quiet
    from prefrep.data.sources import Source, read

    quiet()
    out = Path(options.out)
    done = _resume(out, _belongs_to(options))
    source = Source(options.data, options.format)
    if done and next(islice(read(source), done, None), None) is None:
        print(f"{out}: all {done} rows are there already")
        return 0
    # Only whole windows are kept: a continued file is then, to the last bit, the one that an uninterrupted run writes.
    done -= done % WINDOW
    keep_lines(out, done)
    if done:
        print(f"{out}: {done} rows are there already, going on after them")
    loading = Loading(options.model, options.device, options.dtype, batch_tokens=options.batch_tokens)
    scorer = start(loading, options.workers)
    from tqdm import tqdm

    lines = _lines(scorer, islice(read(source), done, None), options.tables)
    with out.open("a") as file:
        for row, line in enumerate(tqdm(lines, "scoring", unit=" rows", initial=done), start=done):
            file.write(json.dumps({"row": row, **line}) + "\n")
            if (row + 1) % WINDOW == 0:
                file.flush()
    return 0


def _belongs_to(options: argparse.Namespace) -> dict[str, str]:
    """What the rows of an output follow from: the model, by its bytes, the data, and what is written of them."""
    from prefrep.evaluation.layout import fingerprint

    return {
        "model": f"{os.path.realpath(options.model)} ({fingerprint(options.model)[:16]})",
        "data": f"{os.path.realpath(options.data) if os.path.exists(options.data) else options.data} ({_digest(options.data)})",
        "settings": f"--format {options.format}{' --tables' if options.tables else ''} --dtype {options.dtype}",
    }


def _digest(data: str) -> str:
    """Tells files from others: size, first and last megabyte of each, so that files of any length cost nothing."""
    from prefrep.data.sources import files_of

    digest, end, files = hashlib.sha256(), 1 << 20, files_of(data)
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as content:
            digest.update(f"{file.name if len(files) > 1 else ''}:{size}:".encode() + content.read(end))
            content.seek(max(size - end, 0))
            digest.update(content.read(end))
    return digest.hexdigest()[:16] if files else "by name"


def _resume(out: Path, about: dict[str, str]) -> int:
    """Rows that a previous run has written to their end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    note = out.with_name(out.name + ".about.json")
    if out.name.endswith(".gz"):
        raise DataError(f"{out}: the output is plain text, since a half-written file is continued; drop .gz from its name")
    if out.exists() and out.stat().st_size:
        if not note.exists():
            raise DataError(f"{out}: it is not known which model wrote it (no {note.name} beside it); name another --out or delete it")
        before = json.loads(note.read_text())
        for what, now in about.items():
            if before.get(what) != now:
                raise DataError(f"{out}: begun with other {what}, {before.get(what)}, and now it is {now}; name another --out or delete it")
    rows = _whole_rows(out) if out.exists() else 0
    note.write_text(json.dumps(about, indent=1) + "\n")
    return rows


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


def _lines(scorer: Scorer | Workers, records: Iterator[Record], tables: bool) -> Iterator[dict[str, Any]]:
    """Output lines, streamed; neighbouring records of one kind are scored together."""
    for kind, group in groupby(records, key=type):
        ids: deque[str] = deque()  # of the records that the scorer has read ahead
        noted = _noted(group, ids)
        if kind is Comparison:
            for score in scorer.compare(cast(Iterator[Comparison], noted)):
                yield {"id": ids.popleft(), "score": score}
        else:
            for table in scorer.tables(cast(Iterator[RankedResponses], noted)):
                means = table.mean(axis=1)
                line = {"id": ids.popleft(), "scores": means.tolist(), "order": (-means).argsort(kind="stable").tolist()}
                yield line | ({"table": table.tolist()} if tables else {})


def _noted(records: Iterator[Record], ids: deque[str]) -> Iterator[Record]:
    for record in records:
        ids.append(record.id)
        yield record


if __name__ == "__main__":
    friendly.run(main)
