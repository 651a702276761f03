"""Equal rows, votes, prompts and cycles of sources, found on disk: the memory that this takes does not grow with the rows.

Digests of what was read lie in temporary tables, see `tables`.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from prefrep.records import Comparison, Messages, Record
from prefrep.room import saving

Key = bytes
Edge = tuple[Key, Key]

_BATCH = 4096  # rows per call of SQLite
_EDGE = Struct("12s12s")
_SOURCE = """
    DROP TABLE IF EXISTS records; CREATE TABLE records (prompt, pair, verdict, edges);
    DROP TABLE IF EXISTS sides; CREATE TABLE sides (prompt, response, better);
    DROP TABLE IF EXISTS both; CREATE TABLE both (prompt, response, PRIMARY KEY (prompt, response)) WITHOUT ROWID;
"""
_PROMPTS = "CREATE TABLE prompts (prompt, source, records, PRIMARY KEY (prompt, source)) WITHOUT ROWID"


class Common(NamedTuple):
    """What the records of a source have in common.

    Args:
        duplicates: Records that repeat another one.
        votes: Records that repeat another one, but count as votes; None: nobody disagrees on any pair.
        prompts: Different prompts, without texts that have none.
        judged: Prompts with a preference between two different responses.
        cycles: Prompts with a directed cycle.
        long_cycles: Prompts with a cycle of three or more (without pairs labelled both ways).
    """

    duplicates: int = 0
    votes: int | None = None
    prompts: int = 0
    judged: int = 0
    cycles: int = 0
    long_cycles: int = 0


class Digests:
    """Digests of the records of sources, one source after the other, in a temporary file that is deleted with this.

    A verdict is what a record says: its prompt, responses in their order, label, annotator and criterion; records that repeat a verdict
    are duplicates. Those of comparisons without an annotator are votes instead where such comparisons of the same two responses hold more
    than one verdict, since copies of a file do not disagree. The order of records does not matter.

    All methods raise OSError where the disk of `TMPDIR` has no room.
    """

    def __init__(self) -> None:
        self._source = -1
        self._records: list[tuple[Key, Key, Key, bytes]] = []
        self._sides: list[tuple[Key, Key, bool]] = []
        self._folder = Path(tempfile.gettempdir())
        self._base = tables()
        self._base.execute(_PROMPTS)

    def begin(self) -> int:
        """Begin the next source, also where the one before did not end, and return its number."""
        self._source += 1
        self._records, self._sides = [], []
        with saving(self._folder):
            for statement in _SOURCE.split(";"):
                self._base.execute(statement)
        return self._source

    def add(self, record: Record, responses: Sequence[Key], edges: Sequence[Edge]) -> None:
        """Add a record to the source.

        Args:
            record: The record.
            responses: Keys of its responses.
            edges: Pairs (better, worse) of different keys.
        """
        prompt = key(record.prompt)
        # The digest covers the label: two nameless annotators who agree make a duplicate, two who disagree a cycle.
        said = record.probability if isinstance(record, Comparison) else record.scores
        verdict = _digest(prompt, *responses, repr((said, record.annotator, record.criterion)).encode())
        nameless = isinstance(record, Comparison) and not record.annotator
        pair = _digest(prompt, *sorted(responses)) if nameless else verdict
        self._records.append((prompt, pair, verdict, b"".join(better + worse for better, worse in edges)))
        self._sides += {(prompt, better, True) for better, _ in edges} | {(prompt, worse, False) for _, worse in edges}
        if len(self._records) + len(self._sides) >= _BATCH:
            self._write()

    def end(self) -> Common:
        """Return what the records of the source have in common."""
        self._write()
        with saving(self._folder):
            # Sorted, so that they are added at the end. Promptless texts share no prompt.
            prompts = self._base.execute(
                "INSERT INTO prompts SELECT prompt, ?, count(*) FROM records WHERE prompt != ? GROUP BY prompt", (self._source, key(()))
            ).rowcount
            ((duplicates, votes),) = self._base.execute(
                "SELECT sum(CASE WHEN verdicts = 1 THEN records - 1 END), sum(CASE WHEN verdicts > 1 THEN records - verdicts END)"
                " FROM (SELECT count(*) AS records, count(DISTINCT verdict) AS verdicts FROM records GROUP BY pair)"
            )
            ((judged,),) = self._base.execute("SELECT count(*) FROM (SELECT 1 FROM records WHERE length(edges) > 0 GROUP BY prompt)")
            cycles, long_cycles = self._cycles()
        return Common(duplicates or 0, votes, prompts, judged, cycles, long_cycles)

    def _cycles(self) -> tuple[int, int]:
        """Return the numbers of prompts with a cycle, and with a long one.

        Memory grows with the responses to one prompt (all promptless texts together) that are both better and worse than another one: a
        cycle leads through no others.
        """
        self._base.execute("INSERT INTO both SELECT prompt, response FROM sides GROUP BY prompt, response HAVING min(better) < max(better)")
        found = self._base.execute("SELECT prompt, edges FROM records WHERE prompt IN (SELECT prompt FROM both) ORDER BY prompt")
        cycles = long_cycles = 0
        for prompt, records in groupby(found, key=lambda record: record[0]):
            both = {response for (response,) in self._base.execute("SELECT response FROM both WHERE prompt = ?", (prompt,))}
            edges = {edge for _, packed in records for edge in _EDGE.iter_unpack(packed) if both.issuperset(edge)}
            if has_cycle(edges):
                cycles += 1
                long_cycles += has_cycle({(a, b) for a, b in edges if (b, a) not in edges})
        return cycles, long_cycles

    @cached_property
    def shared(self) -> dict[tuple[int, int], tuple[int, int, int]]:
        """By the numbers (a, b) of two sources that ended, a < b, that share a prompt: how many, and their records in a and in b."""
        with saving(self._folder):
            found = self._base.execute(
                "SELECT a.source, b.source, count(*), sum(a.records), sum(b.records) FROM prompts AS a CROSS JOIN prompts AS b"
                " ON a.prompt = b.prompt AND a.source < b.source GROUP BY 1, 2"
            ).fetchall()
        return {(a, b): (both, in_a, in_b) for a, b, both, in_a, in_b in found}

    def _write(self) -> None:
        with saving(self._folder):
            self._base.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", self._records)
            self._base.executemany("INSERT INTO sides VALUES (?, ?, ?)", self._sides)
        self._records, self._sides = [], []


def has_cycle(edges: Iterable[Edge]) -> bool:
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


def key(messages: Messages) -> Key:
    """Return the digest of a prompt or a response."""
    # Tool calls and thoughts tell responses apart, too.
    parts = [(m.role, m.content, repr(sorted(m.fields.items())) if m.fields else "") for m in messages]
    return _digest(*(part.encode() for turn in parts for part in turn))


def _digest(*parts: bytes) -> Key:
    hashed = blake2b(digest_size=12)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.digest()


def tables() -> sqlite3.Connection:
    """Return an empty SQLite database in a temporary file without a name, which goes with it. The file is in `TMPDIR`.

    Its queries sort in bounded memory, too. Write and read it under `room.saving(Path(tempfile.gettempdir()))`. The folder is set for all
    databases of the process.

    Raises:
        OSError: The disk is full.
    """
    folder = tempfile.gettempdir()
    with saving(Path(folder)):
        base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # SQLite would take another folder than Python where TMPDIR is not set. Not while another thread uses a database.
        if base.execute("PRAGMA temp_store_directory").fetchall() != [(folder,)]:
            base.execute("PRAGMA temp_store_directory = '{}'".format(folder.replace("'", "''")))
        for setting in ("temp_store = FILE", "journal_mode = OFF", "synchronous = OFF"):  # nobody reads the file after a crash
            base.execute(f"PRAGMA {setting}")
        base.execute("BEGIN")  # one for all, or each row would be written at once
    return base
