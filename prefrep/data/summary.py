"""Statistics of datasets: lengths, duplicates, label balance, cycles."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from prefrep.data.digests import Common, Digests, key
from prefrep.data.notes import Notes
from prefrep.errors import RecordError
from prefrep.records import DESIRABLE, Comparison, RankedResponses, Record, responses_of, text

if TYPE_CHECKING:
    from prefrep.data.encode import Encoder

Lengths = Callable[[Iterable[Record], "list[RecordError] | None"], Iterator[tuple[Record, int, tuple[int, ...]]]]
ABOUT = ("annotator", "group", "criterion", "label_source", "strength")
PERCENTILES = (50, 90, 99, 100)


@dataclass
class Summary:
    """Statistics of one source.

    Args:
        name: Name of the source.
        digests: Where it is told which records are equal; sources that are compared share it.

    Attributes:
        counts: Rows of each kind: `records`, `comparisons`, `ranked`, `duplicates`, `repeated votes` (of
            people without names who also disagree on the pair), `chosen == rejected`, ...
        notes: Formats, columns that no field takes, and criteria, from reading.
        about: Records by who judged and how: by `annotator`, `group`, `criterion`, `label_source`, `strength`, and by name of `ratings` and
            `tags`.
        subsets: Records by subset.
        labels: Pairs by label (`hard`, `soft`, `tie`), and without ties by the preferred response's length (`longer`, `shorter`, `equal`).
        encoding: Responses by the way the template rendered them, and what it left out; records with control tokens in a text.
        lengths: How often each length occurs, of prompts, responses, and both together.
        number: Number of the source in `digests`.
        common: What its records have in common, once it has ended.
    """

    name: str
    digests: Digests = field(default_factory=Digests)
    counts: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    about: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*ABOUT, "ratings", "tags")})
    subsets: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    encoding: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(
        default_factory=lambda: {what: Counter() for what in ("prompt", "response", "prompt + response")}
    )
    common: Common = field(default_factory=Common)

    def __post_init__(self) -> None:
        self.number = self.digests.begin()

    def add(self, record: Record, prompt: int, whole: Sequence[int], max_length: int | None = None) -> None:
        """Add a record to the statistics.

        Args:
            record: The record.
            prompt: Length of its prompt.
            whole: Length of the prompt with each of the responses.
            max_length: Longer responses count as truncated.
        """
        responses = responses_of(record)
        alone = [length - prompt for length in whole]
        self.lengths["prompt"][prompt] += 1
        self.lengths["response"].update(alone)
        self.lengths["prompt + response"].update(whole)
        self.counts["records"] += 1
        self.counts["comparisons" if isinstance(record, Comparison) else "ranked"] += 1
        self.counts["responses"] += len(responses)
        self.counts["empty responses"] += sum(not any(m.content.strip() or m.fields for m in response) for response in responses)
        if max_length is not None:
            self.counts["responses truncated"] += sum(length > max_length for length in whole)
            self.counts["longer without prompt"] += sum(length > max_length for length in alone)
        self.subsets[record.subset] += 1
        for name in ABOUT:
            if (value := getattr(record, name, None)) not in ("", None):
                self.about[name][f"{value:g}" if isinstance(value, float) else value] += 1
        self.about["tags"].update(record.tags.keys())
        self.about["ratings"].update(list(getattr(record, "ratings", ())))
        keys = [key(response) for response in responses]
        if isinstance(record, Comparison):
            self.counts["chosen == rejected"] += keys[0] == keys[1]
        elif record.scores is None:
            self.counts["ranked without scores"] += 1
        elif record.criterion == DESIRABLE and len(set(record.scores)) == 1:  # no pair, but a label of single responses
            self.counts["desirable alone" if record.scores[0] else "undesirable alone"] += len(responses)
        edges = []
        for better, worse, label in pairs(record):
            self.labels[label] += 1
            if label == "tie":
                continue
            self.labels["equal" if alone[better] == alone[worse] else "longer" if alone[better] > alone[worse] else "shorter"] += 1
            if keys[better] != keys[worse]:
                edges.append((keys[better], keys[worse]))
        self.digests.add(record, keys, edges)

    def end(self) -> None:
        """Count what needs all records: `common`, and of it `duplicates` and `repeated votes`."""
        self.common = self.digests.end()
        if self.counts["records"]:
            self.counts["duplicates"] = self.common.duplicates
        if self.common.votes is not None:
            self.counts["repeated votes"] = self.common.votes

    def percentiles(self) -> dict[str, dict[str, int]]:
        """Return percentiles of the lengths: p50, p90, p99 and the maximum."""
        names = [f"p{p}" if p < 100 else "max" for p in PERCENTILES]
        return {what: dict(zip(names, _percentiles(found), strict=True)) for what, found in self.lengths.items() if found}


def _percentiles(found: Counter[int]) -> list[int]:
    """Return what `np.percentile(..., PERCENTILES, method="higher")` gives for numbers that occur so often."""
    values = sorted(found)
    ends = np.cumsum([found[value] for value in values])
    ranks = np.ceil((ends[-1] - 1) * (np.array(PERCENTILES) / 100))
    return [values[place] for place in np.searchsorted(ends, ranks, side="right")]


def pairs(record: Record) -> Iterator[tuple[int, int, str]]:
    """Yield the labelled pairs of a record: better, worse, and `hard`, `soft` or `tie`; scores label every pair of ranked responses."""
    if isinstance(record, Comparison):
        p = record.probability
        label = "tie" if p == 0.5 else "hard" if p in (0.0, 1.0) else "soft"
        yield (0, 1, label) if p >= 0.5 else (1, 0, label)
    elif record.scores is not None:
        for i, j in combinations(range(len(record.scores)), 2):
            a, b = record.scores[i], record.scores[j]
            yield (i, j, "tie" if a == b else "hard") if a >= b else (j, i, "hard")


def by_words(records: Iterable[Record], refused: list[RecordError] | None = None) -> Iterator[tuple[Record, int, tuple[int, ...]]]:
    """Yield lengths in words."""
    for record in records:
        prompt = len(text(record.prompt).split())
        yield record, prompt, tuple(prompt + len(text(response).split()) for response in responses_of(record))


def by_tokens(encoder: Encoder) -> Lengths:
    """Return a function that yields lengths in tokens, with template, BOS and EOS.

    Args:
        encoder: An encoder whose `max_length` no record exceeds.
    """

    def measure(records: Iterable[Record], refused: list[RecordError] | None = None) -> Iterator[tuple[Record, int, tuple[int, ...]]]:
        waiting: deque[Record] = deque()  # the encoder reads ahead, and yields copies

        def copies() -> Iterator[RankedResponses]:
            for record in records:
                waiting.append(record)
                yield RankedResponses(record.prompt, responses_of(record), source=record.source, template_kwargs=record.template_kwargs)

        for _, datum in encoder.encode_tables(copies(), refused):
            record = waiting.popleft()
            if datum is not None:  # None: rejected, since nothing is too long
                yield record, datum.trees[0].prompt, tuple(len(ids) for ids in datum.trees[0].sequences)

    return measure


def as_json(summary: Summary) -> Mapping[str, Any]:
    """Return the statistics as plain data."""
    common = summary.common
    return {
        "name": summary.name,
        **{name.replace(" ", "_").replace("==", "equals"): count for name, count in sorted(summary.counts.items())},
        "formats": dict(summary.notes.formats),
        "could_be": {f"{read} or {other}": files for (read, other), files in summary.notes.rivals.items()},
        "rows_like_other_formats": dict(summary.notes.others),
        "columns_not_read": dict(summary.notes.unread),
        "encoding": dict(summary.encoding),
        "about": {name: dict(found) for name, found in summary.about.items()},
        "subsets": dict(summary.subsets),
        "labels": {name: summary.labels[name] for name in ("hard", "soft", "tie", "longer", "shorter", "equal")},
        "lengths": summary.percentiles(),
        "prompts": common.prompts,
        "prompts_with_cycles": common.cycles,
        "prompts_with_cycles_of_three_or_more": common.long_cycles,
    }
