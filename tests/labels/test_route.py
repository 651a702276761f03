"""Routing between two label sources whose errors are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import label_checks
from prefrep.disk import replace_lines
from prefrep.errors import ConfigError
from prefrep.labels import Labelled, Route
from prefrep.labels.features import feature, indicators
from prefrep.labels.route import matched, mixes, performance_model
from prefrep.labels.rows import written
from prefrep.records import Comparison
from tests.labels.synthetic import Given, linear, pair


def vowels(each: Comparison) -> str:
    """A feature of our own."""
    return "e" if "e" in each.chosen[0].content + each.rejected[0].content else "none"


def test_both_sources_of_a_pair_meet() -> None:
    """Whatever the order of the responses; features and states see them in one order, without the label."""
    pairs = [
        pair("p", "b", "a", label_source="ai"),
        pair("p", "a", "b", label_source="human", probability=0.9),
        pair("q", "a", "b", label_source="human"),  # nothing cheap to start from
        pair("r", "a", "b"),
        pair("p", "a", "b", label_source="ai"),  # a second label of the same source
    ]
    first, last = matched(pairs, "human")
    assert first.cheap is pairs[0] and first.dear is pairs[1] and first.probabilities == pytest.approx((0.0, 0.9))
    assert (first.pair.chosen[0].content, first.pair.probability) == ("a", 0.5)
    assert last.cheap is pairs[3] and last.dear is None and last.probabilities == (1.0, 1.0)


def test_features_become_indicators() -> None:
    """Numbers in parts of equal size, names as they are; each pair is in one group of each feature."""
    pairs = [pair("a b c d e f"[: 2 * i + 1], "x y" * i or "x", "e", subset="st"[i % 2]).comparison for i in range(6)]
    names, table = indicators({name: feature(name) for name in ("prompt_words", "subset", "tests.labels.test_route.vowels")}, pairs, 3)
    assert names == [f"prompt_words, part {k} of 3" for k in (1, 2, 3)] + ["subset = s", "subset = t", "tests.labels.test_route.vowels = e"]
    assert table[:, :3].argmax(1).tolist() == [0, 0, 1, 1, 2, 2] and table.sum(1).tolist() == [3.0] * 6
    assert feature("similarity")(pair("p", "One two", "two. three!").comparison) == pytest.approx(1 / 3)
    assert feature("length_difference")(pair("p", "One two three", "two").comparison) == 2
    with pytest.raises(ConfigError, match=r"no function package\.module\.name"):
        feature("words_of_wisdom")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        indicators({"mine": lambda each: 1 / 0}, pairs, 3)


def test_the_performance_model_is_a_regression() -> None:
    """Exact on data that are linear in the counts; mixes differ enough to fit it."""
    table = np.eye(4)[np.random.default_rng(0).integers(0, 4, 200)]
    counts = mixes(table, 60, seed=0) @ table
    truth = np.array([1e-4, -2e-4, 0.0, 3e-4])
    found = performance_model(counts, 0.8 + counts @ truth)
    np.testing.assert_allclose(found.coefficients, truth, atol=1e-6)
    assert found.correlation == pytest.approx(1, abs=1e-6)
    assert counts.std(0).min() > 5


def test_a_budget_is_kept_and_missing_labels_are_asked_for(tmp_path: Path) -> None:
    """The dear source is right on one type and wrong on the other: gains have these signs, and only the first type is routed."""
    test, vectors, _ = linear(200, 8, 0.0, seed=0)
    gold = tmp_path / "gold.jsonl"
    replace_lines(gold, written(test))
    rows: list[Labelled] = []
    for i in range(160):
        kind = "st"[i % 2]
        changed: dict[str, Any] = {"tags": {"type": kind}}
        cheap, dear = (Labelled(pair(f"p{i}", f"a{i}", f"b{i}", **changed, label_source=name, probability=p).comparison)
                       for name, p in (("ai", float(kind == "t")), ("human", float(kind == "s"))))  # fmt: skip
        rows += [cheap, dear] if i < 150 else [cheap]
    step = Route(str(gold), budget=0.25, features=["tag:type"], mixes=20, steps=30)
    outcome = step.apply(rows, Given(vectors, tmp_path))
    assert len(outcome.pairs) == 160 and outcome.numbers["routed"] == 40
    for i, each in enumerate(outcome.pairs):
        assert (each.columns["route_gain"] > 0) == (i % 2 == 0)
        if each.columns["route"] == "human":
            assert i % 2 == 0 and each.comparison.probability == 1.0
    sent = [each for each in outcome.pairs if each.columns["route"] == "send to human"]
    assert len(sent) == outcome.numbers["of them without a label yet"]
    assert all(each.comparison.probability == 0.0 for each in sent), "they keep the cheap label until they get another one"


def test_routed_beats_both_sources(tmp_path: Path) -> None:
    """Related.md 2.4: routed above all-human above random at a budget of 30 %, and signs right."""
    found = label_checks.routed(0, tmp_path)
    assert found["routed 30 % human"] > found["all human"] > found["random 30 % human"]
    assert found["signs of the four one-sided types right"] == 1.0


@pytest.mark.parametrize("wrong", [{"budget": 1.0}, {"bins": 1}, {"mixes": 3}, {"features": []}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    """Out of range."""
    with pytest.raises(ConfigError, match=f"Route.{next(iter(wrong))}"):
        Route("gold.jsonl", **wrong)


def test_one_source_is_refused(tmp_path: Path) -> None:
    """There is nothing to route between."""
    pairs, vectors, _ = linear(20, 4, 0.0, seed=0)
    with pytest.raises(ConfigError, match="0 pairs have labels of 'human' and of another source"):
        Route("gold.jsonl").apply(pairs, Given(vectors, tmp_path))
