"""Repeats, contradictions, noise and cycles against counts by hand and slow references."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefrep.data.firsts import Firsts
from prefrep.errors import ConfigError
from prefrep.labels import Duplicates, Labelled, Outcome, Work
from prefrep.labels.clusters import clusters
from prefrep.labels.duplicates import noise_of
from tests.labels.synthetic import pair


def _apply(pairs: list[Labelled], tmp_path: Path, **options: object) -> Outcome:
    return Duplicates(**options).apply(pairs, Work("none", tmp_path))  # type: ignore[arg-type]


def test_repeats_and_contradictions(tmp_path: Path) -> None:
    """Three labels for a, one against: the majority stays once, the minority goes."""
    pairs = [pair("p", "a", "b"), pair("p", "b", "a"), pair("p", "a", "b"), pair("p", "b", "a", probability=0.0), pair("q", "a", "b")]
    found = _apply(pairs, tmp_path)
    assert [each.columns["repeats"] for each in found.pairs] == [4, 4, 4, 4, 1]
    assert [each.columns["agreement"] for each in found.pairs] == [0.75, 0.25, 0.75, 0.75, 1.0]
    assert [each.columns["breaks_order"] for each in found.pairs] == [False, True, False, False, False]
    assert found.numbers["contradicted pairs"] == 1
    clean = _apply(pairs, tmp_path, action="drop").pairs
    assert [each.comparison for each in clean] == [pairs[0].comparison, pairs[4].comparison]
    assert found.numbers["a cleaned set would hold"] == 2


def test_undecided_pairs_go(tmp_path: Path) -> None:
    """One label for and one against say nothing."""
    assert _apply([pair("p", "a", "b"), pair("p", "b", "a")], tmp_path, action="drop").pairs[:] == []


def test_a_single_label_mends_a_cycle(tmp_path: Path) -> None:
    """a > b > c > a, with a > b said twice: one of the other two goes, and what is left has no cycle."""
    pairs = [pair("p", "a", "b"), pair("p", "a", "b"), pair("p", "b", "c"), pair("p", "c", "a"), pair("p", "a", "d"), pair("q", "c", "a")]
    found = _apply(pairs, tmp_path)
    names = ("prompts with a cycle or a contradiction", "of them mended by a single label", "labels that no order keeps")
    assert [found.numbers[name] for name in names] == [1, 1, 1]
    (broken,) = [each.comparison.chosen[0].content for each in found.pairs if each.columns["breaks_order"]]
    assert broken in ("b", "c")
    again = _apply(_apply(pairs, tmp_path, action="drop").pairs, tmp_path)
    assert again.numbers["prompts with a cycle or a contradiction"] == 0


def test_texts_without_a_prompt(tmp_path: Path) -> None:
    """Thousands of answers without a prompt: only those in a circle are ordered."""
    pairs = [Labelled(replace(pair("", f"a{i}", f"a{i + 1}").comparison, prompt=())) for i in range(3000)]
    found = _apply([*pairs, Labelled(replace(pair("", "a9", "a7").comparison, prompt=()))], tmp_path, near=1.0)
    assert found.numbers["labels that no order keeps"] == 1
    assert next(i for i, each in enumerate(found.pairs) if each.columns["breaks_order"]) in (7, 8, 3000)


def test_near_duplicates(tmp_path: Path) -> None:
    """Case, blanks and one word of thirty do not matter; where the two answers differ by a word, it does."""
    long = " ".join(f"word{i}" for i in range(60))
    pairs = [pair("p", long, "b"), pair("P ", long.upper(), "B"), pair("p", long + " again", "b"), pair("p", long, long + " again")]
    found = _apply(pairs, tmp_path)
    assert [each.columns["repeats"] for each in found.pairs] == [3, 3, 3, 1]
    assert found.numbers["pairs whose two answers are nearly equal"] == 1
    assert [each.columns["repeats"] for each in _apply(pairs, tmp_path, near=1.0).pairs] == [1, 1, 1, 1]


def test_clusters_against_all_pairs() -> None:
    """MinHash finds the connected components that comparing all pairs finds."""
    draw = np.random.default_rng(0)
    texts = []
    for base in range(12):
        words = [f"w{base}x{i}" for i in draw.integers(0, 50, 40)]
        for _ in range(4):
            copy = list(words)
            for place in draw.integers(0, 40, draw.integers(0, 3)):
                copy[place] = f"new{draw.integers(1 << 30)}"
            texts.append(" ".join(copy))

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text)
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    sets = [shingles(text) for text in texts]
    label = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(sets[i] & sets[j]) >= 0.7 * len(sets[i] | sets[j]):
                label = [label[j] if each == label[i] else each for each in label]
    found = clusters(texts, Firsts().add(text.encode() for text in texts), 0.7)
    assert [[a == b for b in found] for a in found] == [[a == b for b in label] for a in label]
    assert 12 <= len(set(label)) < len(texts)


def test_noise_from_repeats() -> None:
    """Labels that are wrong with probability e disagree with probability 2 e (1 - e): the interval holds e."""
    draw = np.random.default_rng(1)
    wrong = draw.random((4000, 3)) < 0.15
    found = noise_of(np.stack([3 - wrong.sum(1), wrong.sum(1)], 1), seed=0)
    assert found is not None
    pairs = [(a, b) for row in wrong for a, b in ((row[0], row[1]), (row[0], row[2]), (row[1], row[2]))]
    assert found.disagreement == pytest.approx(np.mean([a != b for a, b in pairs]))
    assert 2 * found.rate * (1 - found.rate) == pytest.approx(found.disagreement)
    assert found.interval[0] < 0.15 < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.02
    assert noise_of(np.eye(2, dtype=np.int64), 0) is None


def test_wrong_settings() -> None:
    """Out of range."""
    with pytest.raises(ConfigError, match="near"):
        Duplicates(near=0.0)
    with pytest.raises(ConfigError, match="action"):
        Duplicates(action="flip")  # type: ignore[arg-type]


def test_the_table_against_dictionaries(tmp_path: Path) -> None:
    """Repeats, agreement and the cleaned set of random labels, ties among them."""
    draw = np.random.default_rng(2)
    pairs = []
    for _ in range(400):
        a, b = draw.permutation(4)[:2]
        pairs.append(pair(f"p{draw.integers(9)}", f"answer {a}", f"answer {b}", probability=float(draw.choice([1.0, 1.0, 0.0, 0.5]))))
    names = [(e.comparison.prompt, e.comparison.chosen[0].content, e.comparison.rejected[0].content) for e in pairs]
    keys = [(p, *sorted((a, b))) for p, a, b in names]
    says = [0 if not each.sign else (a, b)[each.sign < 0] for each, (_, a, b) in zip(pairs, names, strict=True)]
    found = _apply(pairs, tmp_path, near=1.0)
    votes = Counter(zip(keys, says, strict=True))
    told: set[object] = set()
    clean = []
    for each, key, said in zip(found.pairs, keys, says, strict=True):
        total = sum(votes[key, who] for who in (0, *key[1:]))
        against = sum(votes[key, who] for who in key[1:] if who != said)
        assert (each.columns["repeats"], each.columns["agreement"]) == (total, round(votes[key, said] / total, 6))
        stays = (said == 0 or votes[key, said] > against) and not each.columns["breaks_order"] and (key, said) not in told
        clean += [each.comparison] if stays else []
        told.add((key, said))
    assert found.numbers["repeated labels"] == 400 - len(set(keys)) > 300
    assert [each.comparison for each in _apply(pairs, tmp_path, near=1.0, action="drop").pairs] == clean


def test_parts_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures in blocks and parts of a few texts bring the same texts together."""
    draw = np.random.default_rng(3)
    words = [f"w{i}" for i in range(40)]
    bases = [draw.choice(words, 20).tolist() for _ in range(15)]
    texts = [" ".join([*bases[draw.integers(15)][: draw.integers(15, 20)], words[draw.integers(40)]]) for _ in range(200)]
    firsts = Firsts().add(text.encode() for text in texts)
    whole = clusters(texts, firsts, 0.6)
    assert 15 <= len(set(whole.tolist())) < len(set(texts))
    monkeypatch.setattr("prefrep.labels.clusters._BLOCK", 16)
    monkeypatch.setattr("prefrep.labels.clusters._PART", 30)
    assert np.array_equal(clusters(texts, firsts, 0.6), whole)


def test_noise_is_resampled_by_pairs() -> None:
    """The interval is that of drawing all resamples at once."""
    votes = np.random.default_rng(4).integers(0, 4, (50, 2))
    counts = votes[votes.sum(1) > 1]
    shares = counts.prod(1) / (counts.sum(1) * (counts.sum(1) - 1) / 2)
    drawn = shares[np.random.default_rng(0).integers(0, len(shares), (2000, len(shares)))].mean(1)
    rates = (1 - np.sqrt(np.maximum(1 - 2 * drawn, 0))) / 2
    found = noise_of(votes, seed=0)
    assert found is not None and found.interval == pytest.approx(np.quantile(rates, [0.025, 0.975]))
