"""Where equal content came first, against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from prefrep.data import firsts
from prefrep.data.firsts import Firsts, first_rows, numbered


@pytest.mark.parametrize("part", [1 << 19, 7])
def test_against_a_dictionary(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in several calls, with parts of a few digests too."""
    monkeypatch.setattr(firsts, "_PART", part)
    draw = np.random.default_rng(0)
    known: dict[bytes, int] = {}
    it, place = Firsts(), 0
    for count in (50, 0, 1, 200):
        keys = [b"%d" % i for i in draw.integers(0, 60, count)]
        expected = []
        for key in keys:
            expected.append(known.setdefault(key, place))
            place += 1
        assert it.add(iter(keys)).tolist() == expected
    assert len(it) == place == 251


def test_rows_and_numbers() -> None:
    """Rows are equal if all their columns are; numbers follow first occurrence."""
    draw = np.random.default_rng(1)
    a, b = draw.integers(0, 5, (2, 100))
    known: dict[tuple[int, int], int] = {}
    expected = [known.setdefault((int(x), int(y)), i) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    assert first_rows(a, b).tolist() == expected
    names: dict[int, int] = {}
    assert numbered(first_rows(a, b)).tolist() == [names.setdefault(i, len(names)) for i in expected]
    assert first_rows(a[:0]).tolist() == numbered(first_rows(a[:0])).tolist() == []
