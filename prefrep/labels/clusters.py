"""Texts that are nearly equal: MinHash, on disk, and a comparison of what it brings together."""

from __future__ import annotations

import re
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefrep.console import progress
from prefrep.data.firsts import Ints
from prefrep.disk import piece
from prefrep.room import saving

HASHES, BAND = 96, 4  # of MinHash: texts with a similarity of 0.8 meet in one of 24 bands with probability 0.999994
BANDS = HASHES // BAND
WORDS = 3  # of a shingle
_BLOCK = 1 << 13  # texts whose bands lie behind each other
_PART = 1 << 18  # texts that are sorted together
_REFUSED = 1 << 16  # pairs that are remembered, since they meet in several bands
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd
_WORD = re.compile(r"\w+|[^\w\s]")
Shingles = NDArray[np.int32]
Values = NDArray[np.uint64]


def clusters(texts: Sequence[str], firsts: Ints, near: float, seed: int = 0) -> Ints:
    """Return the place of the first text of each text's cluster: its set of shingles resembles another one's, or a chain links them.

    Memory holds tens of bytes a text.

    Args:
        texts: The texts; those that are compared are asked for again.
        firsts: Where each text came first, see `data.firsts`.
        near: Jaccard similarity of texts that belong together, in (0, 1].
        seed: Seed of the hash functions.
    """
    if near == 1:
        return firsts
    signatures = Signatures(_distinct(texts, firsts), seed)
    distinct = np.flatnonzero(firsts == np.arange(len(firsts)))
    above = array("i", range(len(distinct)))

    def root(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    @lru_cache(maxsize=256)
    def shingles_of(i: int) -> Shingles:
        return shingles(texts[int(distinct[i])])

    refused: set[tuple[int, int]] = set()
    for i, j in signatures.candidates():
        a, b = sorted((root(i), root(j)))
        if a == b or (i, j) in refused:
            continue
        one, other = shingles_of(i), shingles_of(j)
        shared = len(np.intersect1d(one, other, assume_unique=True))
        if shared >= near * (len(one) + len(other) - shared):
            above[b] = a
            continue
        if len(refused) == _REFUSED:
            refused.clear()
        refused.add((i, j))
    roots = np.fromiter(map(root, range(len(distinct))), np.int32)
    return np.asarray(distinct[roots[np.searchsorted(distinct, firsts)]])


def _distinct(texts: Sequence[str], firsts: Ints) -> Iterator[str]:
    return (each for i, each in enumerate(progress(texts, "looking for equal texts", "texts")) if firsts[i] == i)


class Signatures:
    """MinHash signatures of texts (Broder 1997), a number for each band, in a temporary file.

    Args:
        texts: The texts.
        seed: Seed of the hash functions.
    """

    def __init__(self, texts: Iterator[str], seed: int) -> None:
        self._file = tempfile.TemporaryFile()
        self._count = 0
        generator = np.random.default_rng(seed)
        prime = (1 << 31) - 1
        scale, shift = generator.integers(1, prime, HASHES, dtype=np.int64), generator.integers(0, prime, HASHES, dtype=np.int64)
        block, filled = np.empty((_BLOCK, HASHES), np.int32), 0
        for text in texts:
            block[filled] = ((shingles(text)[:, None] * scale + shift) % prime).min(0)
            filled += 1
            if filled == _BLOCK:
                self._write(block)
                filled = 0
        self._write(block[:filled])

    def _write(self, signatures: Shingles) -> None:
        with saving(Path(tempfile.gettempdir())):
            self._file.write(((signatures.view(np.uint64).reshape(-1, BANDS, 2) * _MIX).sum(2) * _MIX[0]).T.tobytes())
            self._file.flush()
        self._count += len(signatures)

    def _band(self, band: int) -> Iterator[tuple[int, Values]]:
        """Yield places of texts and the numbers of a band behind each."""
        for begin in range(0, self._count, _BLOCK):
            size = min(_BLOCK, self._count - begin)
            yield begin, np.frombuffer(piece(self._file, 8 * size, 8 * (BANDS * begin + band * size)), np.uint64)

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yield pairs i < j of texts that agree in a band (Leskovec et al., chapter 3), once for each such band."""
        parts = -(-self._count // _PART)
        for band in range(BANDS):
            for part in range(parts):
                inside = [(values, begin, np.flatnonzero((values >> 32) % parts == part)) for begin, values in self._band(band)]
                places = np.concatenate([begin + here for _, begin, here in inside])
                yield from _met(places, np.concatenate([values[here] for values, _, here in inside]))


def _met(places: Ints, values: Values) -> Iterator[tuple[int, int]]:
    order = np.argsort(values, kind="stable")  # a bucket keeps the order of its texts
    begins = np.flatnonzero(np.append(True, values[order[1:]] != values[order[:-1]]))
    sizes = np.diff(begins, append=len(order))
    for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        bucket = places[order[begin : begin + size]].tolist()
        # Of a large bucket, neighbours suffice: clusters are chains.
        yield from combinations(bucket, 2) if size < 20 else pairwise(bucket)


def shingles(words: str) -> Shingles:
    """Return the hashes of a text's shingles, in ascending order."""
    tokens = _WORD.findall(words.casefold())
    parts = {" ".join(tokens[i : i + WORDS]) for i in range(max(len(tokens) - WORDS + 1, 1))}
    hashes = b"".join(blake2b(part.encode(), digest_size=4).digest() for part in parts)
    return np.unique((np.frombuffer(hashes, "<u4") >> 1).astype(np.int32))
