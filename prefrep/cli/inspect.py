"""Prints what data hold, before anyone trains on them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefrep.errors import PrefrepError, RecordError

if TYPE_CHECKING:
    from prefrep.data.sources import Source
    from prefrep.data.summary import Lengths, Summary

COLUMNS = 4  # sources side by side
SHOWN = 10  # bad rows, subsets


def main(args: list[str] | None = None) -> int:
    """Reads each source and prints its numbers beside the others'.

    Args:
        args: Command line arguments, those of the process by default.

    Returns:
        The exit code: 1 where a source could not be read, and the others are shown.

    Raises:
        PrefrepError: If no source, or not the tokenizer, can be read.
    """
    parser = _parser()
    given = parser.parse_args(args)
    if given.max_length is not None and not given.tokenizer:
        parser.error("--max-length counts tokens: give --tokenizer too")
    if given.max_length is not None and given.max_length < 1:
        parser.error("--max-length must be at least 1")
    columns = {}
    for pair in given.column:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            parser.error(f"--column takes OURS=THEIRS, for example rejected=worse, not '{pair}'")
        columns[ours] = theirs

    from prefrep.data.sources import Source
    from prefrep.data.summary import as_json, by_words

    sources = [Source(path, given.format, given.split, limit=given.limit, columns=columns or None) for path in given.data]
    lengths = _by_tokens(given.tokenizer) if given.tokenizer else by_words
    found: list[tuple[Summary, list[RecordError]]] = []
    unread: list[PrefrepError] = []
    for source in sources:
        try:
            found.append(_summary(source, lengths, given.max_length, given.on_bad_row))
        except PrefrepError as error:
            unread.append(error)
    if not found:
        raise unread[0]
    unit = "tokens" if given.tokenizer else "words"
    summaries = [summary for summary, _ in found]
    print("\n".join(_report(summaries, [bad for _, bad in found], unit, given.max_length)))
    if given.json:
        out = Path(given.json)
        out.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "unit": unit,
            "max_length": given.max_length,
            "sources": [{**as_json(summary), "bad_rows": [str(error) for error in bad]} for summary, bad in found],
            "shared_prompts": [
                {"sources": [a.name, b.name], "prompts": both, "records": [in_a, in_b]} for a, b, both, in_a, in_b in _shared(summaries)
            ],
        }
        out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for each in unread:
        print(f"prefrep: {each}", file=sys.stderr)
    return 1 if unread else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/inspect",
        description="Prints what preference data hold: rows, format, lengths, duplicates, prompts that files share, empty responses, "
        "label balance, cycles among the responses to a prompt, and bad rows.",
    )
    parser.add_argument(
        "data", nargs="+", metavar="DATA", help="a file (.jsonl, .json, .parquet, .gz), a folder, or a hub data set owner/name"
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="model whose tokens lengths are counted in (folder, hub id or bundled:NAME); else words"
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="count what is longer than N tokens")
    parser.add_argument("--format", default="auto", metavar="F", help="how rows are written; told from the columns by default")
    parser.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="another name of a column (repeatable)")
    parser.add_argument("--split", help="part of a hub data set (default: train), or of a folder that holds several")
    parser.add_argument("--limit", type=int, metavar="N", help="read at most N records of each source")
    parser.add_argument(
        "--on-bad-row", choices=("skip", "error"), default="skip", help="list bad rows, or stop at the first (default: skip)"
    )
    parser.add_argument("--json", metavar="OUT", help="write the numbers to this file as well")
    return parser


def _by_tokens(path: str) -> Lengths:
    from prefrep.data.encode import EncodeConfig, Encoder
    from prefrep.data.summary import by_tokens
    from prefrep.nn.loading import load_tokenizer

    return by_tokens(Encoder(load_tokenizer(path), EncodeConfig(max_length=2**40), "single"))


def _summary(
    source: Source, lengths: Lengths, max_length: int | None, on_bad_row: Literal["error", "skip"]
) -> tuple[Summary, list[RecordError]]:
    from tqdm import tqdm

    from prefrep.data.sources import read
    from prefrep.data.summary import Summary

    summary = Summary(source.path)
    bad: list[RecordError] = []
    records = tqdm(read(source, on_bad_row, bad, summary.formats), source.path, unit=" records", disable=None, leave=False)
    for record, prompt, whole in lengths(records, bad if on_bad_row == "skip" else None):
        summary.add(record, prompt, whole, max_length)
    summary.counts["bad rows"] = len(bad)
    summary.counts["rows"] = summary.counts["records"] + len(bad)
    return summary, bad


def _shared(summaries: Sequence[Summary]) -> Iterator[tuple[Summary, Summary, int, int, int]]:
    from prefrep.data.summary import shared_prompts

    for a, b in combinations(summaries, 2):
        yield a, b, *shared_prompts(a, b)


# ---- the table


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total and count else f"{count:,}"


def _cells(summary: Summary, unit: str, max_length: int | None) -> dict[str, str]:
    counts, labels = summary.counts, summary.labels
    cycles, long_cycles = summary.cycles()
    decided = labels["longer"] + labels["shorter"] + labels["equal"]
    cells = {
        "rows": f"{counts['rows']:,}",
        "bad rows": _share(counts["bad rows"], counts["rows"]),
        "format": ", ".join(summary.formats),
        "comparisons": f"{counts['comparisons']:,}",
        "ranked responses": f"{counts['ranked']:,}"
        + (f" ({counts['ranked without scores']:,} without scores)" if counts["ranked without scores"] else ""),
        "distinct prompts": f"{len(summary.prompts):,}",
        "duplicate rows": _share(counts["duplicates"], counts["records"]),
        "chosen == rejected": _share(counts["chosen == rejected"], counts["comparisons"]),
        "empty responses": _share(counts["empty responses"], counts["responses"]),
    }
    for what, found in summary.percentiles().items():
        cells[f"{what}, {unit}: {' / '.join(found)}"] = " / ".join(f"{length:,}" for length in found.values())
    if max_length is not None:
        cells[f"responses over {max_length:,} tokens with their prompt"] = _share(counts["responses truncated"], counts["responses"])
        cells[f"responses over {max_length:,} tokens without it"] = _share(counts["longer without prompt"], counts["responses"])
    cells["labelled pairs: hard / soft / tie"] = f"{labels['hard']:,} / {labels['soft']:,} / {labels['tie']:,}"
    cells["preferred response is longer"] = _share(labels["longer"], decided)
    cells["preferred response is shorter"] = _share(labels["shorter"], decided)
    cells["prompts with a cycle"] = _share(cycles, len(summary.edges))
    cells["  of them with one of 3 or more responses"] = f"{long_cycles:,}"
    if set(summary.subsets) - {""}:
        listed = [f"{name or '(none)'} {count:,}" for name, count in summary.subsets.most_common(SHOWN)]
        rest = len(summary.subsets) - len(listed)
        cells["subsets"] = "\n".join([*listed, f"and {rest} more"] if rest > 0 else listed)
    return cells


def _report(summaries: Sequence[Summary], bad: Sequence[Sequence[RecordError]], unit: str, max_length: int | None) -> Iterator[str]:
    for start in range(0, len(summaries), COLUMNS):
        yield from _table(summaries[start : start + COLUMNS], unit, max_length)
        yield ""
    for a, b, both, in_a, in_b in _shared(summaries):
        yield f"prompts shared by {a.name} and {b.name}: {both:,}" + (f" (in {in_a:,} and {in_b:,} records)" if both else "")
    for summary, errors in zip(summaries, bad, strict=True):
        if errors:
            yield f"\nbad rows of {summary.name}: {len(errors):,}"
            yield from (f"  {error}" for error in errors[:SHOWN])
            if len(errors) > SHOWN:
                yield f"  and {len(errors) - SHOWN:,} more" + ", all of them with --json"


def _table(summaries: Sequence[Summary], unit: str, max_length: int | None) -> Iterator[str]:
    columns = [_cells(summary, unit, max_length) for summary in summaries]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines: list[list[str]] = [["", *(_short(summary.name) for summary in summaries)]]
    for name in names:
        parts = [column.get(name, "-").split("\n") for column in columns]
        for i in range(max(map(len, parts))):
            lines.append(["" if i else name, *(part[i] if i < len(part) else "" for part in parts)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(summaries) + 1)]
    for number, line in enumerate(lines):
        yield "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]).rstrip()
        if number == 0:
            yield "-" * (sum(widths) + 2 * len(summaries))


def _short(name: str, width: int = 32) -> str:
    return name if len(name) <= width else "..." + name[3 - width :]


if __name__ == "__main__":
    from prefrep.cli.friendly import run

    run(main)
