"""Where equal content came first, for more content than memory holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrep.disk import piece
from prefrep.room import saving

Ints = NDArray[np.int64]
_SIZE = 16  # bytes of a digest
_PART = 1 << 18  # digests that are sorted together


class Firsts:
    """Tells for each key at which place, counted from 0, an equal one came first.

    Digests of keys lie in a temporary file, and are sorted part by part of their values: memory holds 8 bytes a key, for the answer.

    Example:
        >>> firsts = Firsts()
        >>> firsts.add([b"a", b"b", b"a"]).tolist(), firsts.add([b"c", b"b"]).tolist()
        ([0, 1, 0], [3, 1])
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, keys: Iterable[bytes]) -> Ints:
        """Add keys behind those that are there; return the place of the first equal one for each, among all that were ever added."""
        begin = self._count
        folder = Path(tempfile.gettempdir())
        for key in keys:  # which may be read from other disks
            with saving(folder):
                self._file.write(blake2b(key, digest_size=_SIZE).digest())
            self._count += 1
        with saving(folder):
            self._file.flush()
        found = np.empty(self._count - begin, np.int64)
        parts = -(-self._count // _PART)
        for part in range(parts):
            places, digests = self._part(part, parts)
            firsts, new = places[first_rows(*digests.T)], places >= begin
            found[places[new] - begin] = firsts[new]
        return found

    def _part(self, part: int, parts: int) -> tuple[Ints, NDArray[np.uint64]]:
        """Return the places of the digests whose value leaves the remainder `part`, and these digests [n, 2]."""
        places, digests = [], []
        for begin in range(0, self._count, _PART):
            read = piece(self._file, min(_PART, self._count - begin) * _SIZE, begin * _SIZE)
            block = np.frombuffer(read, np.uint64).reshape(-1, 2)
            inside = np.flatnonzero(block[:, 0] % parts == part)
            places.append(inside + begin)
            digests.append(block[inside])
        return np.concatenate(places), np.concatenate(digests)


def first_rows(*columns: NDArray[Any]) -> Ints:
    """Return for each row of equally long columns the place of the first equal row."""
    order = np.lexsort(columns)  # stable
    new = np.ones(len(order), bool)
    if len(order):
        new[1:] = np.logical_or.reduce([column[order[1:]] != column[order[:-1]] for column in columns])
    starts = np.flatnonzero(new)
    found = np.empty(len(order), np.int64)
    found[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return found


def numbered(firsts: Ints) -> Ints:
    """Return the number, from 0, of each place's content, in the order of first occurrence; `firsts` begin at place 0."""
    return (np.cumsum(firsts == np.arange(len(firsts))) - 1)[firsts]
