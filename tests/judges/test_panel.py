"""Several judges as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import comparison

from prefrep.errors import ConfigError
from prefrep.judges import PanelJudge, RuleJudge
from prefrep.scoring import ranked

RULE = f"{__name__}."


def longer(prompt: str, response: str, other: str) -> float:
    return 20.0 * (len(response) - len(other))


def alphabetical(prompt: str, response: str, other: str) -> float:
    return float(response < other) - float(response > other)


def panel(**weights: float) -> PanelJudge:
    return PanelJudge({"length": RuleJudge(f"{RULE}longer"), "alphabet": RuleJudge(f"{RULE}alphabetical")}, weights or None)


@pytest.mark.parametrize(("weights", "shares"), [({}, (0.5, 0.5)), ({"alphabet": 3.0}, (0.25, 0.75)), ({"length": 0.0}, (0.0, 1.0))])
def test_a_verdict_is_the_weighted_mean_with_the_table_of_each(weights: dict[str, float], shares: tuple[float, float]) -> None:
    answers = ["bb", "a", "ccc"]
    (verdict,) = panel(**weights).judge([ranked("Why?", answers)])
    length = np.array([[20.0 * (len(a) - len(b)) for b in answers] for a in answers])
    alphabet = np.array([[float(a < b) - float(a > b) for b in answers] for a in answers])
    assert verdict.tables is not None and list(verdict.tables) == ["length", "alphabet"]
    np.testing.assert_array_equal(verdict.tables["length"], length)
    np.testing.assert_array_equal(verdict.tables["alphabet"], alphabet)
    np.testing.assert_allclose(verdict.table, shares[0] * length + shares[1] * alphabet)
    pairs = [comparison("Why?", "bb", "a"), comparison("Why?", "a", "ccc")]
    assert list(panel(**weights).compare(iter(pairs))) == pytest.approx([verdict.table[0, 1], verdict.table[1, 2]])


def test_who_is_on_the_panel_is_described() -> None:
    said = panel(alphabet=3.0).describe()
    assert said == {
        "judges": {"length": {"rule": f"{RULE}longer"}, "alphabet": {"rule": f"{RULE}alphabetical"}},
        "weights": {"alphabet": 3.0},
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda one: PanelJudge({}), "is empty"),
        (lambda one: PanelJudge({"a": one}, {"b": 1.0}), "names 'b', which is none of the judges a"),
        (lambda one: PanelJudge({"a": one}, {"a": -1.0}), "0 or more"),
        (lambda one: PanelJudge({"a": one}, {"a": 0.0}), "one of them positive"),
        (lambda one: PanelJudge({"a": one}, {"a": float("nan")}), "0 or more"),
    ],
)
def test_wrong_panels(make: Callable[[Any], PanelJudge], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(RuleJudge("prefrep.judges.concise"))
