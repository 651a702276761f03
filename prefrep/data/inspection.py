"""Summaries of several sources, side by side: what `prefrep inspect` prints and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from prefrep.console import progress
from prefrep.data.digests import Digests
from prefrep.data.sources import Source, read
from prefrep.data.summary import Lengths, Summary, as_json
from prefrep.errors import PrefrepError, RecordError

COLUMNS = 4  # sources side by side
SHOWN = 10  # bad rows, subsets


class Inspected(NamedTuple):
    """One source that was read.

    Args:
        summary: Its numbers.
        bad: Its bad rows.
    """

    summary: Summary
    bad: list[RecordError]


def summarise(
    sources: Sequence[Source],
    lengths: Lengths,
    max_length: int | None,
    on_bad_row: Literal["error", "skip"],
    encoding: Callable[[], Counter[str]] = Counter,
) -> tuple[list[Inspected], list[PrefrepError]]:
    """Read sources to their ends.

    Args:
        sources: What to read.
        lengths: How lengths are counted: `summary.by_words` or `summary.by_tokens`.
        max_length: Count what is longer than so many tokens.
        on_bad_row: Collect bad rows, or take the first one for a source that cannot be read.
        encoding: Numbers of the encoder behind `lengths`, see `Summary.encoding`.

    Returns:
        The sources that were read, and why the others were not.
    """
    found: list[Inspected] = []
    unread: list[PrefrepError] = []
    digests = Digests()
    for source in sources:
        before = encoding()
        try:
            found.append(_inspected(source, digests, lengths, max_length, on_bad_row))
            found[-1].summary.encoding.update(encoding() - before)
        except PrefrepError as error:
            unread.append(error)
    return found, unread


def _inspected(
    source: Source, digests: Digests, lengths: Lengths, max_length: int | None, on_bad_row: Literal["error", "skip"]
) -> Inspected:
    summary = Summary(source.path, digests)
    bad: list[RecordError] = []
    records = progress(read(source, on_bad_row, bad, summary.notes), source.path, "records")
    for record, prompt, whole in lengths(records, bad if on_bad_row == "skip" else None):
        summary.add(record, prompt, whole, max_length)
    summary.end()
    summary.counts["bad rows"] = len(bad)
    summary.counts["rows"] = summary.notes.rows
    return Inspected(summary, bad)


def _shared(summaries: Sequence[Summary]) -> Iterator[tuple[Summary, Summary, int, int, int]]:
    for a, b in combinations(summaries, 2):
        assert a.digests is b.digests, "they are numbered together"
        yield a, b, *a.digests.shared.get((a.number, b.number), (0, 0, 0))


def numbers(found: Sequence[Inspected], unit: str, max_length: int | None) -> dict[str, Any]:
    """Return all numbers as plain data.

    Args:
        found: The sources.
        unit: Of lengths: tokens or words.
        max_length: What is longer was counted.
    """
    return {
        "unit": unit,
        "max_length": max_length,
        "sources": [{**as_json(summary), "bad_rows": [str(error) for error in bad]} for summary, bad in found],
        "shared_prompts": [
            {"sources": [a.name, b.name], "prompts": both, "records": [in_a, in_b]}
            for a, b, both, in_a, in_b in _shared([summary for summary, _ in found])
        ],
    }


# ---- the table


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total and count else f"{count:,}"


def _cells(summary: Summary, unit: str, max_length: int | None) -> dict[str, str]:
    counts, labels, common = summary.counts, summary.labels, summary.common
    decided = labels["longer"] + labels["shorter"] + labels["equal"]
    cells = {
        "rows": f"{counts['rows']:,}",
        "bad rows": _share(counts["bad rows"], counts["rows"]),
        "format": ", ".join(summary.notes.formats),
        "comparisons": f"{counts['comparisons']:,}",
        "ranked responses": f"{counts['ranked']:,}"
        + (f" ({counts['ranked without scores']:,} without scores)" if counts["ranked without scores"] else ""),
        "distinct prompts": f"{common.prompts:,}",
        "duplicate rows": _share(counts["duplicates"], counts["records"]),
        "chosen == rejected": _share(counts["chosen == rejected"], counts["comparisons"]),
        "empty responses": _share(counts["empty responses"], counts["responses"]),
    }
    if votes := counts["repeated votes"]:
        cells["equal votes on pairs that others judged otherwise"] = _share(votes, counts["records"])
    for what, found in summary.percentiles().items():
        cells[f"{what}, {unit}: {' / '.join(found)}"] = " / ".join(f"{length:,}" for length in found.values())
    if max_length is not None:
        cells[f"responses over {max_length:,} tokens with their prompt"] = _share(counts["responses truncated"], counts["responses"])
        cells[f"responses over {max_length:,} tokens without it"] = _share(counts["longer without prompt"], counts["responses"])
    cells |= _about(summary)
    cells["labelled pairs: hard / soft / tie"] = f"{labels['hard']:,} / {labels['soft']:,} / {labels['tie']:,}"
    if alone := counts["desirable alone"] + counts["undesirable alone"]:
        cells["responses without a pair: desirable / not"] = f"{counts['desirable alone']:,} / {alone - counts['desirable alone']:,}"
    cells["preferred response is longer"] = _share(labels["longer"], decided)
    cells["preferred response is shorter"] = _share(labels["shorter"], decided)
    cells["prompts with a cycle"] = _share(common.cycles, common.judged)
    cells["  of them with one of 3 or more responses"] = f"{common.long_cycles:,}"
    if set(summary.subsets) - {""}:
        cells["subsets"] = _listed(summary.subsets)
    return cells


def _listed(found: Counter[str]) -> str:
    listed = [f"{name or '(none)'} {count:,}" for name, count in found.most_common(SHOWN)]
    rest = len(found) - len(listed)
    return "\n".join([*listed, f"and {rest:,} more"] if rest > 0 else listed)


def _about(summary: Summary) -> dict[str, str]:
    """Return who judged what and how, and what was not read, as far as there is any."""
    notes, about = summary.notes, summary.about
    cells = {
        "could also be (set format)": ", ".join(other for _, other in notes.rivals),
        "rows that look like": _listed(notes.others),
        "columns not read": _listed(notes.unread),
        "annotators": f"{len(about['annotator']):,}\n{_listed(about['annotator'])}" if about["annotator"] else "",
        "groups": _listed(about["group"]),
        "criteria": _listed(about["criterion"]),
        "strengths": _listed(about["strength"]),
        "rated aspects (criterion)": _listed(about["ratings"]),
        "labels from": _listed(about["label_source"]),
        "tags": _listed(about["tags"]),
        "responses by template": _listed(summary.encoding),
    }
    return {name: cell for name, cell in cells.items() if cell}


def report(found: Sequence[Inspected], unit: str, max_length: int | None) -> Iterator[str]:
    """Yield the lines of a table for the terminal; arguments are those of `numbers`."""
    summaries = [summary for summary, _ in found]
    for start in range(0, len(summaries), COLUMNS):
        yield from _table(summaries[start : start + COLUMNS], unit, max_length)
        yield ""
    for a, b, both, in_a, in_b in _shared(summaries):
        yield f"prompts shared by {a.name} and {b.name}: {both:,}" + (f" (in {in_a:,} and {in_b:,} records)" if both else "")
    for summary, errors in found:
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
