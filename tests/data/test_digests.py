"""What records have in common is what slow searches through lists of them find, in memory that does not grow."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from conftest import comparison

from prefrep.data.digests import Common, Digests, has_cycle
from prefrep.data.summary import PERCENTILES, Summary, by_words, pairs
from prefrep.records import Comparison, Message, Messages, RankedResponses, Record, responses_of

Preference = tuple[Messages, Messages]


def drawn(draw: random.Random) -> Record:
    """A record of few words, so that most of it occurs again."""
    responses = [(Message("assistant", draw.choice("abcd")),) for _ in range(4)]
    annotator, criterion = draw.choice(["", "", "", "me"]), draw.choice(["", "", "", "", "safe"])
    prompt = draw.choice([(), *((Message("user", each),) for each in "abcde")])
    if draw.random() < 0.7:
        probability = draw.choice([1.0, 1.0, 1.0, 0.0, 0.5, 0.7])
        return Comparison(prompt, responses[0], responses[1], probability, annotator=annotator, criterion=criterion)
    k = draw.randint(1, 4)
    scores = draw.choice([None, tuple(float(draw.randint(0, 2)) for _ in range(k))])
    return RankedResponses(prompt, tuple(responses[:k]), scores, annotator=annotator, criterion=criterion)


def said(record: Record) -> tuple[object, ...]:
    label = record.probability if isinstance(record, Comparison) else record.scores
    return type(record), record.prompt, responses_of(record), label, record.annotator, record.criterion


def votes(records: list[Record]) -> tuple[int, int | None]:
    """Records that repeat another one: duplicates, and votes; None: nobody disagrees."""
    duplicates, votes, disagree = 0, 0, False
    for i, record in enumerate(records):
        others = [
            other for other in records
            if isinstance(record, Comparison) and isinstance(other, Comparison) and not record.annotator and not other.annotator
            and record.prompt == other.prompt and sorted(map(str, responses_of(record))) == sorted(map(str, responses_of(other)))
        ]  # fmt: skip
        contested = any(said(other) != said(record) for other in others)
        disagree |= contested
        if any(said(record) == said(earlier) for earlier in records[:i]):
            duplicates, votes = duplicates + (not contested), votes + contested
    return duplicates, votes if disagree else None


def preferences(records: list[Record]) -> dict[Messages, set[Preference]]:
    found: dict[Messages, set[Preference]] = {}
    for record in records:
        responses = responses_of(record)
        for better, worse, label in pairs(record):
            if label != "tie" and responses[better] != responses[worse]:
                found.setdefault(record.prompt, set()).add((responses[better], responses[worse]))
    return found


def reaches_itself(edges: set[Preference]) -> bool:
    reach = set(edges)
    for _ in edges:
        reach |= {(a, d) for a, b in reach for c, d in edges if b == c}
    return any(a == b for a, b in reach)


def reference(records: list[Record]) -> Common:
    by_prompt = preferences(records)
    return Common(
        *votes(records),
        prompts=len({record.prompt for record in records} - {()}),
        judged=len(by_prompt),
        cycles=sum(map(reaches_itself, by_prompt.values())),
        long_cycles=sum(reaches_itself({(a, b) for a, b in edges if (b, a) not in edges}) for edges in by_prompt.values()),
    )


def summarised(digests: Digests, records: list[Record]) -> Summary:
    summary = Summary("x", digests)
    for record, prompt, whole in by_words(records):
        summary.add(record, prompt, whole)
    summary.end()
    return summary


def test_against_slow_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of random records that collide, and the prompts that each two of them share."""
    monkeypatch.setattr("prefrep.data.digests._BATCH", 7)
    draw, seen = random.Random(0), Counter[str]()
    for _ in range(12):
        digests, sources, numbers = Digests(), [], []
        for size in (draw.randint(1, 12), draw.randint(20, 40), 100, draw.randint(1, 5)):
            sources.append([drawn(draw) for _ in range(size)])
            found = summarised(digests, sources[-1])
            expected = reference(sources[-1])
            assert found.common == expected
            seen.update(name for name, count in expected._asdict().items() if count)
            numbers.append(found.number)
        for (i, a), (j, b) in combinations(zip(numbers, sources, strict=True), 2):
            both = {record.prompt for record in a} & {record.prompt for record in b} - {()}
            counts = (len(both), *(sum(record.prompt in both for record in source) for source in (a, b)))
            assert digests.shared.get((i, j), (0, 0, 0)) == counts
    assert min(seen[name] for name in Common._fields) > 5


def test_a_source_that_broke_off_leaves_nothing() -> None:
    digests = Digests()
    broken = Summary("x", digests)
    broken.add(comparison("p", "a", "b"), 1, (2, 2))
    digests._write()
    broken.add(comparison("q", "a", "b"), 1, (2, 2))
    assert summarised(digests, [comparison("p", "a", "b")]).common == Common(prompts=1, judged=1)
    assert not digests.shared


def test_percentiles_are_those_of_numpy() -> None:
    """At every number of lengths, since ranks are rounded up from floating-point numbers."""
    draw, summary, lengths = random.Random(0), Summary("x"), list[int]()
    for size in range(1, 1200):
        lengths.append(draw.randint(0, 2 * size))
        summary.lengths["prompt"][lengths[-1]] += 1
        assert list(summary.percentiles()["prompt"].values()) == np.percentile(lengths, PERCENTILES, method="higher").tolist()


GROWTH = """
import resource, random
from prefrep.data.digests import Digests
from prefrep.records import Comparison, Message
digests, draw = Digests(), random.Random(0)
for rows in (10_000, 80_000):
    digests.begin()
    for _ in range(rows):
        prompt, a, b = draw.randbytes(36).hex(" ", 12).split()
        record = Comparison((Message("user", prompt),), (Message("assistant", a),), (Message("assistant", b),))
        digests.add(record, [a.encode(), b.encode()], [(a.encode(), b.encode())])
    print(digests.end().prompts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow() -> None:
    told = subprocess.run([sys.executable, "-c", GROWTH], check=True, capture_output=True, text=True).stdout.splitlines()
    (few, small), (many, large) = (map(int, line.split()) for line in told)
    assert (few, many) == (10_000, 80_000)
    assert large < 1.2 * small


def test_a_full_disk_is_a_sentence() -> None:
    digests = Digests()
    digests._base.execute("PRAGMA max_page_count = 40")
    with pytest.raises(OSError, match=r"No space left on device \(.* free\); .* set TMPDIR to a folder on another disk") as full:
        summarised(digests, [comparison(f"q{i}", "a", "b") for i in range(5000)])
    assert full.value.filename == tempfile.gettempdir()


def test_the_file_is_in_tmpdir_and_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "it's here"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    digests = Digests()
    told = digests._base.execute("PRAGMA temp_store_directory").fetchall()
    assert told in ([(str(place),)], [])  # none: SQLite was compiled without it
    summarised(digests, [comparison(f"q{i}", "a", "b") for i in range(20_000)])
    assert not list(place.iterdir())


def test_has_cycle_against_reachability() -> None:
    """Every directed graph on three nodes, against the powers of its adjacency matrix."""
    nodes = [b"0", b"1", b"2"]
    arrows = [(a, b) for a in nodes for b in nodes if a != b]
    cyclic = 0
    for chosen in product([False, True], repeat=len(arrows)):
        edges = {arrow for arrow, there in zip(arrows, chosen, strict=True) if there}
        reach = set(edges)
        for _ in nodes:
            reach |= {(a, d) for a, b in reach for c, d in edges if b == c}
        expected = any((node, node) in reach for node in nodes)
        assert has_cycle(edges) == expected
        cyclic += expected
    assert cyclic == 64 - 25  # 25 labelled acyclic digraphs on three nodes (OEIS A003024)


def test_a_long_chain_needs_no_recursion() -> None:
    chain = [(str(i).encode(), str(i + 1).encode()) for i in range(5000)]
    assert not has_cycle(chain)
    assert has_cycle([*chain, (b"5000", b"0")])
