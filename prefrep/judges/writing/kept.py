"""Answers of judges, kept by content in the cache: whoever asks the same question of the same model again pays nothing.

One SQLite file per model holds them. An answer is committed, to the disk, by the thread that received it, before anybody reads it. This
leaves one gap: of a question in flight when the process is killed nobody can know whether it was answered, so it is asked again. What the
server said to a question is kept, refusals (400) too. Errors and time-outs are no answers and are not kept: the next run asks again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from prefrep.caching import cache_folder, entry
from prefrep.errors import CheckpointError
from prefrep.judges.writing.reading import Reply
from prefrep.locks import writing
from prefrep.room import saving

FOLDER = "verdicts"


class Kept:
    """The answers of one model.

    Args:
        who: What tells the model from others, as plain data.
        folder: Folder of the files; None: in the cache.
    """

    def __init__(self, who: Mapping[str, Any], folder: Path | None = None) -> None:
        self._who = dict(who)
        name = hashlib.sha256(json.dumps(self._who, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self.path = (folder or cache_folder() / FOLDER) / f"{name}.sqlite"
        self._open: sqlite3.Connection | None = None
        self._one = Lock()  # a connection has one transaction at a time

    def key(self, question: Mapping[str, Any]) -> str:
        """Return the name of a question to this model, by content."""
        return entry(self.path.parent, {"who": self._who, "question": question}).name

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Hold the right to ask this model for the duration of a `with` block, so that two runs never pay for one question.

        Raises:
            OSError: The folder is not writable.
        """
        with writing(self.path, waits=True):
            try:
                yield
            finally:
                if self._open is not None:
                    self._open.close()
                    self._open = None

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Return those answers that are kept."""
        if not self.path.exists():
            return {}
        base, found = self._base(), dict[str, Reply]()
        for key in keys:
            if (row := base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()) is not None:
                data = json.loads(row[0])
                found[key] = Reply(**{**data, "tail": tuple((token, tops) for token, tops in data["tail"])})
        return found

    def keep(self, key: str, question: Mapping[str, Any], reply: Reply) -> None:
        """Keep an answer, from any thread; it is on the disk when this returns. Call it within `asking`."""
        row = (key, json.dumps(question, ensure_ascii=False, default=str), json.dumps(vars(reply), ensure_ascii=False))
        with self._one, saving(self.path), self._base() as base:
            base.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", row)

    def _base(self) -> sqlite3.Connection:
        if self._open is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                base = sqlite3.connect(self.path, timeout=60.0, check_same_thread=False)
                base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, question TEXT, reply TEXT)")
            except sqlite3.DatabaseError as error:
                raise CheckpointError(f"{self.path}: the kept answers cannot be read ({error}); move the file away to ask again") from error
            self._open = base
        return self._open
