"""A population whose majority runs in a circle."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest

from prefrep.functional.intransitivity import triples
from prefrep.functional.rankings import margins, maximal_lottery
from prefrep.judges import RuleJudge, circular, on_topic
from prefrep.judges.jurors import LAP, first, second, third
from prefrep.scoring import ranked

ANSWERS = ["word " * count for count in range(LAP)]
JURORS = (first, second, third)


@pytest.mark.parametrize("juror", JURORS)
def test_each_juror_has_a_ranking(juror: object) -> None:
    """Every triple of answers is in order: no cycles."""
    some = ANSWERS[::4]
    table = np.array([[juror("", a, b) for b in some] for a in some])  # type: ignore[operator]
    assert triples(table).cyclic == 0 and (table + table.T == 0).all() and (np.abs(table) + 2 * np.eye(len(some)) == 2).all()


def test_the_majority_runs_in_a_circle() -> None:
    """Places a third apart beat each other in turn; the vote is that of the jurors; the best lottery goes round the circle."""
    for start in range(LAP // 3):
        a, b, c = (ANSWERS[start + LAP // 3 * i] for i in range(3))
        assert circular("", b, a) > 0 < circular("", c, b) and circular("", a, c) > 0
    for a, b in permutations(ANSWERS[::3], 2):
        votes = sum(juror("", a, b) > 0 for juror in JURORS)
        assert circular("", a, b) == pytest.approx(math.log((votes + 0.5) / (3.5 - votes)))
    (verdict,) = RuleJudge("prefrep.judges.circular").judge([ranked("", [f"{answer}." for answer in ANSWERS])])
    table = verdict.table.astype(np.float64)
    lottery = maximal_lottery(margins(table))
    assert (margins(table) @ lottery).max() < 1e-6, "nothing beats it"
    thirds = lottery.reshape(3, -1).sum(1)
    assert thirds == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_somewhat_longer_wins_and_much_longer_loses() -> None:
    for i, j in combinations(range(LAP), 2):
        if j - i <= LAP // 3:
            assert circular("", ANSWERS[j], ANSWERS[i]) > 0
        if j - i >= 2 * LAP // 3:
            assert circular("", ANSWERS[j], ANSWERS[i]) < 0
    assert circular("", ANSWERS[5], ANSWERS[5]) == 0 and circular("", "w " * 90, ANSWERS[-1]) == 0


def test_on_topic_counts_the_words_of_the_prompt() -> None:
    """Of "capital", "France" and "largest", the first answer has two and the second one has one, twice."""
    assert on_topic("The capital of France? The largest?", "france has a CAPITAL, Paris", "Capital, capital") == pytest.approx(4 / 3)
    assert on_topic("Who?", "Me", "Not you") == 0
