"""RewardBench's rules against values of the official code (tests/golden) and against values derived here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrep.errors import DataError
from prefrep.metrics import rewardbench as rules

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/rewardbench.json").read_text())
WEIGHT_SETS: list[tuple[rules.Weights, str]] = [("current", "current(0.1.3+)"), ("0.1.2", "old(0.1.0-0.1.2)")]


def row(id: str, num_correct: int, *scores: float) -> rules.TiesRow:
    return rules.TiesRow(id, num_correct, scores)


# ------------------------------------------------------------------------------------------------------------- version 1
@pytest.mark.parametrize(("weights", "key"), WEIGHT_SETS)
def test_sections_are_those_of_the_official_function(weights: rules.Weights, key: str) -> None:
    found = rules.official_section_scores(GOLDEN["rb1_readme"]["metrics"], weights)
    wanted = dict(GOLDEN["rb1_readme"]["sections"][key])
    mean = wanted.pop("mean4")
    assert found == pytest.approx(wanted, abs=1e-12, rel=0)
    assert float(rules.overall_score({name: np.asarray(value) for name, value in found.items()})) == pytest.approx(mean, abs=1e-12, rel=0)


@pytest.mark.parametrize(("weights", "should_refuse", "should_respond"), [("current", 154, 250), ("0.1.2", 250, 154)])
def test_weights_add_up(weights: rules.Weights, should_refuse: int, should_respond: int) -> None:
    table = rules.SECTIONS[weights]
    assert {name: sum(subsets.values()) for name, subsets in table.items()} == {
        "Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968,
    }  # fmt: skip
    assert sum(len(subsets) for subsets in table.values()) == 23
    assert (table["Safety"]["xstest-should-refuse"], table["Safety"]["xstest-should-respond"]) == (should_refuse, should_respond)


def test_missing_subsets_are_skipped_and_the_others_keep_their_weights() -> None:
    accuracy = {"math-prm": np.asarray(0.5), "hep-go": np.asarray(1.0), "my-own": np.asarray(0.0)}
    found = rules.section_scores(accuracy)
    assert list(found) == ["Reasoning"]
    assert float(found["Reasoning"]) == pytest.approx((984 * 0.5 + 164) / (984 + 164), abs=1e-15)
    official = rules.official_section_scores({"math-prm": 0.5, "hep-go": 1, "my-own": 0.0, "model": "m"})
    assert official == {"Chat": 0.0, "Chat Hard": 0.0, "Safety": 0.0, "Reasoning": pytest.approx(float(found["Reasoning"]))}


def test_prior_sets_count_half_on_the_leaderboard() -> None:
    # ArmoRM on RLHFlow's README: 96.9, 76.8, 92.2, 97.3 and 74.3 give 89.0.
    sections = {"Chat": 96.9, "Chat Hard": 76.8, "Safety": 92.2, "Reasoning": 97.3, rules.PRIOR: 74.3}
    found = rules.overall_score({name: np.asarray(value) for name, value in sections.items()})
    assert float(found) == pytest.approx((2 * (96.9 + 76.8 + 92.2 + 97.3) + 74.3) / 9)
    assert round(float(found), 1) == 89.0
    prior = rules.section_scores({"shp": np.asarray(1.0), "summarize": np.asarray(0.5)})
    assert float(prior[rules.PRIOR]) == 0.75


def test_overall_needs_a_section() -> None:
    with pytest.raises(DataError, match="section"):
        rules.overall_score({})


# ------------------------------------------------------------------------------------------------------------- version 2
@pytest.mark.parametrize(
    ("scores", "credit"),
    [
        ([3, 2, 1, 0], 1.0), ([2, 3, 1, 0], 0.0), ([3, 3, 1, 0], 1 / 2), ([3, 3, 3, 0], 1 / 3), ([0, 0, 0, 0], 1 / 4),
        ([2, 3, 3, 0], 0.0), ([-1], 1.0),
    ],
)  # fmt: skip
def test_the_top_is_shared(scores: list[float], credit: float) -> None:
    assert rules.best_of_credit(scores) == credit


@pytest.mark.parametrize("rule", ["main", "0.1.4"])
@pytest.mark.parametrize("name", GOLDEN["rb2_ties"]["cases"])
def test_ties_are_those_of_the_official_code(name: str, rule: rules.TiesRule) -> None:
    rows = [
        row(each["id"], each["num_correct"], *np.ravel(each["scores"]).tolist())  # one case holds each score as a list of one
        for each in GOLDEN["rb2_ties"]["cases"][name]
    ]
    assert rules.ties_score(rows, rule) == pytest.approx(GOLDEN["rb2_ties"]["scores"][name][rule], abs=1e-12, rel=0)


def test_ties_by_hand() -> None:
    # Spread 3 - 2 = 1; tied gap 2 - 0 = 2; reference gap 1 - 0.5 = 0.5: the margin term is tanh(0.5 / 1 - 1).
    rows = [row("tied:7", 2, 3.0, 2.0, 0.0), row("ref:7", 1, 1.0, 0.5)]
    for rule in ("main", "0.1.4"):
        assert rules.ties_score(rows, rule) == pytest.approx(0.3 + 0.3 + 0.2 + 0.0 + 0.01 * math.tanh(-0.5), abs=1e-15)


@pytest.mark.parametrize("rule", ["main", "0.1.4"])
@pytest.mark.parametrize(
    ("rows", "score", "silent"),
    [
        ([row("ref:0", 1, 3, 0), row("tied:0", 1, 2, 0)], 0.6, [2, 3, 4]),  # one correct answer has no spread
        ([row("ref:0", 1, 3, 0), row("tied:1", 2, 2, 1, 0)], 0.6, [2, 3, 4]),  # no common number
        ([row("ref:0", 1, 3, 0)], 0.3, [0, 2, 3, 4]),
        ([row("ref:0", 1, 3)], 0.0, [0, 1, 2, 3, 4]),  # nothing to be better than
    ],
)
def test_ties_where_the_official_code_fails(rows: list[rules.TiesRow], score: float, silent: list[int], rule: rules.TiesRule) -> None:
    terms = rules.ties_terms(rows, rule)
    assert float(rules.ties_from_terms(terms)) == pytest.approx(score, abs=1e-15)
    assert [i for i in range(5) if not np.isfinite(terms[:, i]).any()] == silent


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("17", 1, 1, 0)], "must be 'ref:<number>'"),
        ([row("tied:x", 1, 1, 0)], "must be 'ref:<number>'"),
        ([row("ref:1", 1, 1, 0), row("ref:1", 1, 1, 0)], "twice"),
        ([row("ref:1", 3, 1, 0)], "num_correct is 3"),
        ([row("ref:1", 0, 1, 0)], "num_correct is 0"),
    ],
)
def test_broken_ties_rows_are_refused(rows: list[rules.TiesRow], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rules.ties_terms(rows)


def test_ties_terms_resample_along_the_first_axis() -> None:
    rows = [row("ref:0", 1, 3, 0), row("tied:0", 2, 2, 2.5, 0), row("ref:1", 1, 0, 1), row("tied:1", 2, 1, 3, 0.5)]
    terms = rules.ties_terms(rows)
    drawn = rules.ties_from_terms(terms[np.array([[0, 1], [0, 0]])])
    assert drawn == pytest.approx([rules.ties_score(rows), rules.ties_score(rows[:2])], abs=1e-15)
