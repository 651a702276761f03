"""Rules as judges."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import comparison

from prefrep.errors import ConfigError
from prefrep.judges import RuleJudge, concise, conciseness
from prefrep.scoring import ranked


def position(prompt: str, response: str, other: str) -> float:
    """Likes what comes first, and long responses a little."""
    return 5.0 + 0.5 * len(response)


def broken(prompt: str, response: str, other: str) -> float:
    raise RuntimeError("out of order")


def endless(prompt: str, response: str, other: str) -> float:
    return float("inf")


def enormous(prompt: str, response: str, other: str) -> float:
    """A finite number, beyond the largest one of 32 bits (3.4e38)."""
    return 1e39 * (len(response) - len(other))


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Five words are quite enough.", 0.0),
        ("One two three four five six seven eight nine ten!", 0.0),
        ("Isn't that so, my old friend?", 0.0),  # six words
        ("one two three four five", -1.0),
        ("Too short.", -3.0),
        ("w " * 29 + "w.", -2.0),
        ("", -6.0),
    ],
)
def test_conciseness_has_a_known_answer(response: str, value: float) -> None:
    assert conciseness(response) == pytest.approx(value)


def test_a_rule_gives_a_skew_table() -> None:
    record = ranked("Why?", ["Because it is so, my friend.", "No.", "w " * 20])
    (verdict,) = RuleJudge("prefrep.judges.concise").judge([record])
    quality = np.array([0.0, -4.0, -2.0])
    np.testing.assert_allclose(verdict.table, quality[:, None] - quality[None], atol=1e-6)
    assert concise("", "No.", "Because it is so, my friend.") == -4.0 and verdict.blocks is None


def test_a_place_gives_no_advantage() -> None:
    judge = RuleJudge(f"{__name__}.position")
    (verdict,) = judge.judge([ranked("Why?", ["aa", "aaaa"])])
    np.testing.assert_allclose(verdict.table, [[0, -0.5], [0.5, 0]])
    assert list(judge.compare([comparison("Why?", "aa", "aaaa"), comparison("Why?", "aaaa", "aa")])) == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("prefrep.judges.nothing", "nor a Python function"),
        ("nowhere", "nor a Python function"),
        ("prefrep.judges.rules.LONGEST", "of type int"),
    ],
)
def test_a_rule_that_is_not_there(rule: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RuleJudge(rule)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("broken", "RuntimeError: out of order"),
        ("endless", "must be finite"),
        ("enormous", "gave the log-odds -?inf on the prompt 'Why[?]'; they must be finite"),
    ],
)
def test_a_rule_that_fails(rule: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        list(RuleJudge(f"{__name__}.{rule}").judge([ranked("Why?", ["a", "bb"])]))
