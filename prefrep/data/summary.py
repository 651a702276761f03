"""Statistics of datasets: lengths, duplicates, label balance, leaks between files, cycles."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from prefrep.data.notes import Notes
from prefrep.errors import RecordError
from prefrep.records import DESIRABLE, Comparison, Messages, RankedResponses, Record, responses_of, text

if TYPE_CHECKING:
    from prefrep.data.encode import Encoder

Key = bytes
Lengths = Callable[[Iterable[Record], "list[RecordError] | None"], Iterator[tuple[Record, int, tuple[int, ...]]]]
ABOUT = ("annotator", "group", "criterion", "label_source", "strength")
PERCENTILES = (50, 90, 99, 100)


@dataclass
class Summary:
    """Statistics of one source.

    Args:
        name: Name of the source.

    Attributes:
        counts: Rows of each kind: `records`, `comparisons`, `ranked`, `duplicates`, `repeated votes` (of
            people without names who also disagree on the pair), `chosen == rejected`, ...
        notes: Formats, columns that no field takes, and criteria, from reading.
        about: Records by who judged and how: by `annotator`, `group`, `criterion`, `label_source`, `strength`, and by name of `ratings` and
            `tags`.
        subsets: Records by subset.
        labels: Pairs by label (`hard`, `soft`, `tie`), and without ties by the preferred response's length (`longer`, `shorter`, `equal`).
        encoding: Responses by the way the template rendered them, and what it left out; records with control tokens in a text.
        lengths: Lengths of prompts, responses, and both together.
        prompts: Records by prompt, without texts that have none.
        edges: Pairs (better, worse) of responses by prompt.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    about: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*ABOUT, "ratings", "tags")})
    subsets: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    encoding: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"prompt": [], "response": [], "prompt + response": []})
    prompts: Counter[Key] = field(default_factory=Counter)
    edges: defaultdict[Key, set[tuple[Key, Key]]] = field(default_factory=lambda: defaultdict(set))
    _seen: set[Key] = field(default_factory=set)
    _first: dict[Key, Key] = field(default_factory=dict)  # the first verdict on each pair by nobody in particular
    _contested: set[Key] = field(default_factory=set)  # pairs with other verdicts, too
    _again: Counter[Key] = field(default_factory=Counter)  # equal verdicts on the pairs that are not contested

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
        self.lengths["prompt"].append(prompt)
        self.lengths["response"] += alone
        self.lengths["prompt + response"] += whole
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
        keys = [_key(response) for response in responses]
        prompt_key = _key(record.prompt)
        # The digest covers the label: two nameless annotators who agree make a duplicate, two who disagree a cycle.
        said = record.probability if isinstance(record, Comparison) else record.scores
        row = _digest(prompt_key, *keys, repr((said, record.annotator, record.criterion)).encode())
        if row in self._seen:
            self._repeated(record, prompt_key, keys)
        self._seen.add(row)
        if isinstance(record, Comparison) and not record.annotator:
            self._voted(_digest(prompt_key, *sorted(keys)), row)
        if record.prompt:
            self.prompts[prompt_key] += 1
        if isinstance(record, Comparison):
            self.counts["chosen == rejected"] += keys[0] == keys[1]
        elif record.scores is None:
            self.counts["ranked without scores"] += 1
        elif record.criterion == DESIRABLE and len(set(record.scores)) == 1:  # no pair, but a label of single responses
            self.counts["desirable alone" if record.scores[0] else "undesirable alone"] += len(responses)
        for better, worse, label in pairs(record):
            self.labels[label] += 1
            if label == "tie":
                continue
            self.labels["equal" if alone[better] == alone[worse] else "longer" if alone[better] > alone[worse] else "shorter"] += 1
            if keys[better] != keys[worse]:
                self.edges[prompt_key].add((keys[better], keys[worse]))

    def _repeated(self, record: Record, prompt: Key, keys: Sequence[Key]) -> None:
        """Count an equal row: a vote, if somebody said otherwise on the same pair, since copies of a file do not disagree."""
        pair = _digest(prompt, *sorted(keys)) if isinstance(record, Comparison) and not record.annotator else None
        if pair is not None and pair in self._contested:
            self.counts["repeated votes"] += 1
            return
        self.counts["duplicates"] += 1
        if pair is not None:
            self._again[pair] += 1

    def _voted(self, pair: Key, row: Key) -> None:
        if self._first.setdefault(pair, row) != row and pair not in self._contested:
            self._contested.add(pair)
            moved = self._again.pop(pair, 0)
            self.counts["repeated votes"] += moved
            self.counts["duplicates"] -= moved

    def cycles(self) -> tuple[int, int]:
        """Return the numbers of prompts with a directed cycle, and with a cycle of three or more (without pairs labelled both ways)."""
        with_any = [edges for edges in self.edges.values() if has_cycle(edges)]
        return len(with_any), sum(has_cycle({(a, b) for a, b in edges if (b, a) not in edges}) for edges in with_any)

    def percentiles(self) -> dict[str, dict[str, int]]:
        """Return percentiles of the lengths: p50, p90, p99 and the maximum."""
        names = [f"p{p}" if p < 100 else "max" for p in PERCENTILES]
        return {
            what: dict(zip(names, map(int, np.percentile(found, PERCENTILES, method="higher")), strict=True))
            for what, found in self.lengths.items()
            if found
        }


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


def has_cycle(edges: Iterable[tuple[Key, Key]]) -> bool:
    """Return whether a directed graph has a cycle, by topological sorting.

    Args:
        edges: Pairs (from, to).
    """
    targets: defaultdict[Key, set[Key]] = defaultdict(set)
    for a, b in edges:
        targets[a].add(b)
        targets.setdefault(b, set())
    incoming = Counter(b for found in targets.values() for b in found)
    free = [node for node in targets if not incoming[node]]
    removed = 0
    while free:
        removed += 1
        for b in targets[free.pop()]:
            incoming[b] -= 1
            if not incoming[b]:
                free.append(b)
    return removed < len(targets)


def shared_prompts(a: Summary, b: Summary) -> tuple[int, int, int]:
    """Return the number of prompts in both sources, and of their records in each."""
    both = a.prompts.keys() & b.prompts.keys()
    return len(both), sum(a.prompts[key] for key in both), sum(b.prompts[key] for key in both)


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
    cycles, strict = summary.cycles()
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
        "prompts": len(summary.prompts),
        "prompts_with_cycles": cycles,
        "prompts_with_cycles_of_three_or_more": strict,
    }


def _key(messages: Messages) -> Key:
    # Tool calls and thoughts tell responses apart, too.
    parts = [(m.role, m.content, repr(sorted(m.fields.items())) if m.fields else "") for m in messages]
    return _digest(*(part.encode() for turn in parts for part in turn))


def _digest(*parts: bytes) -> Key:
    hashed = blake2b(digest_size=12)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.digest()
