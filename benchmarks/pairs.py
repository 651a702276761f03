"""Encoded preference pairs for benchmarks: from a file, or generated with the length statistics of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.sources import Source, read
from prefrep.data.trees import Datum, Tree
from prefrep.data.trie import Trie

# Token counts at the percentiles below, measured on 1300 pairs of Anthropic HH (harmless-base) with SmolLM2's tokenizer and chat
# template: the shared prefix, the rest of each response, and whole sequences.
PERCENTILES = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
SHARED = (33, 38, 40, 45, 63, 91, 113, 139, 168, 201, 265, 317, 409, 525)
CHOSEN = (1, 7, 9, 13, 17, 21, 26, 32, 42, 58, 83, 117, 160, 270)
REJECTED = (2, 7, 10, 15, 21, 27, 34, 45, 55, 73, 100, 123, 191, 260)
WHOLE = (37, 52, 61, 81, 104, 129, 153, 183, 214, 258, 325, 392, 470, 687)
# Rank correlations in these data: prefix with either response, the two responses, and the two whole sequences of a pair.
SHARED_RESPONSE, RESPONSES, WHOLES = 0.20, 0.26, 0.87


def from_file(path: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int = 0) -> list[Datum]:
    """Return pairs of a file, sampled without replacement.

    Args:
        path: Any preference data that `prefrep.data.sources` reads.
        tokenizer: Tokenizer, with its chat template if it has one.
        count: Number of pairs.
        seed: Seed of the sample.
    """
    records = list(read(Source(path, "auto")))
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    encoder = Encoder(tokenizer, EncodeConfig(max_length=4096), "single")
    data = [datum for _, datum in encoder.encode([records[i] for i in chosen]) if datum is not None]
    if len(data) < count:
        raise SystemExit(f"{path}: {count} pairs are needed, {len(data)} are usable ({encoder.report()})")
    return data


def generated(tokenizer: PreTrainedTokenizerBase, count: int, shared: bool, scale: float = 1.0, seed: int = 0) -> list[Datum]:
    """Return pairs of random tokens with the lengths of HH.

    Args:
        tokenizer: Tokenizer, of which the vocabulary is used: ordinary tokens are equally likely, and each sequence ends in the EOS.
        count: Number of pairs.
        shared: Responses share a prompt as in HH. False: two unrelated sequences with the lengths of HH, where only padding can be saved.
        scale: Factor on all lengths.
        seed: Seed of lengths and tokens.
    """
    rng = np.random.default_rng(seed)
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([token for token in range(len(tokenizer)) if token not in special], dtype=np.int32)
    eos = np.array([tokenizer.eos_token_id], dtype=np.int32)

    def draw(tables: Sequence[Sequence[int]], correlation: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return lengths [count, tables]: normal variates with a correlation, each mapped through its table."""
        normal = rng.multivariate_normal(np.zeros(len(tables)), correlation, size=count)
        uniform = np.vectorize(NormalDist().cdf)(normal) * 100
        lengths = np.stack([np.interp(uniform[:, i], PERCENTILES, table) for i, table in enumerate(tables)], axis=1)
        return np.maximum(np.rint(lengths * scale), 1).astype(np.int64)

    def text(length: int, first: int | None = None) -> NDArray[np.int32]:
        """Return `length` tokens with the EOS last; `first` makes the two branches of a pair differ."""
        ids = rng.choice(ordinary, size=max(length - 1, 0))
        if first is not None and len(ids):
            ids[0] = ordinary[first]
        return np.concatenate([ids, eos])

    data = []
    if shared:
        a, b = SHARED_RESPONSE, RESPONSES
        for prompt, chosen, rejected in draw((SHARED, CHOSEN, REJECTED), np.array([[1, a, a], [a, 1, b], [a, b, 1]])):
            before = rng.choice(ordinary, size=prompt)
            data.append(_pair(np.concatenate([before, text(chosen, 0)]), np.concatenate([before, text(rejected, 1)]), int(prompt)))
    else:
        for one, other in draw((WHOLE, WHOLE), np.array([[1, WHOLES], [WHOLES, 1]])):
            data.append(_pair(text(one, 0), text(other, 1), 0))
    return data


def _pair(chosen: NDArray[np.int32], rejected: NDArray[np.int32], prompt: int) -> Datum:
    return Datum((Tree((chosen, rejected), prompt),), ((0, 1),), (1.0,), (0.0,), (1.0,))


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield places of texts sorted by length, in batches of at most so many tokens with their padding."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) + 1) * lengths[place] > tokens:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def distinct(data: Sequence[Datum]) -> int:
    """Return the number of distinct tokens of a batch: what several pairs begin with counts once."""
    return _trie(data).size


def padded(data: Sequence[Datum]) -> int:
    """Return the number of tokens of the pairs as sequences padded to the longest."""
    lengths = [len(ids) for datum in data for ids in datum.sequences]
    return len(lengths) * max(lengths)


def seen(data: Sequence[Datum]) -> int:
    """Return the number of pairs (distinct token, token on its path up to itself), which attention has to compute."""
    return int((_trie(data).laid().positions + 1).sum())


def _trie(data: Sequence[Datum]) -> Trie:
    return Trie(ids for datum in data for ids in datum.sequences)
