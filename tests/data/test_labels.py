"""What a run makes of published strengths, ratings and criteria."""

from __future__ import annotations

import math

import pytest

from prefrep.data.labels import Labels
from prefrep.data.sources import Source, named
from prefrep.errors import ConfigError
from prefrep.records import Comparison, Message, RankedResponses

Q, A, B = (Message("user", "q"),), (Message("assistant", "a"),), (Message("assistant", "b"),)
STRONG, TIE, UNKNOWN = Comparison(Q, A, B, strength=2.0), Comparison(Q, A, B, 0.5, strength=0.0), Comparison(Q, A, B)


def applied(record: Comparison, **choice: object) -> tuple[float, float]:
    found = Labels(**choice).apply(record)  # type: ignore[arg-type]
    assert isinstance(found, Comparison)
    return found.probability, found.margin


def test_strength_is_a_choice_of_the_run() -> None:
    assert applied(STRONG) == (1.0, 0.0)
    assert applied(STRONG, strength="margin", scale=0.5) == (1.0, 1.0)
    probability, margin = applied(STRONG, strength="probability", scale=0.5)
    assert margin == 0 and math.log(probability / (1 - probability)) == pytest.approx(1.0, abs=1e-12), "log-odds of scale * strength"
    assert applied(TIE, strength="probability") == (0.5, 0.0) == applied(TIE, strength="margin")
    for choice in ("margin", "probability"):
        assert applied(UNKNOWN, strength=choice) == (1.0, 0.0), "comparisons without a strength stay as they are"


def test_a_criterion_selects_comparisons() -> None:
    helpful = Comparison(Q, A, B, criterion="helpful")
    assert Labels("helpful").apply(helpful) == helpful == Labels().apply(helpful)
    assert Labels("safe").apply(helpful) is None is Labels("safe").apply(UNKNOWN)


def test_a_criterion_selects_ratings() -> None:
    record = RankedResponses(Q, (A, B, A), (1.0, 2.0, 3.0), {"kind": (5.0, math.nan, 4.0), "dry": (math.nan,) * 3})
    found = Labels("kind").apply(record)
    assert isinstance(found, RankedResponses) and found.scores == (5.0, 4.0) and found.responses == (A, A) and found.criterion == "kind"
    assert Labels("dry").apply(record) is None is Labels("other").apply(record)
    assert Labels().apply(record) == record


def test_sources_precede_the_run() -> None:
    run = Labels("helpful", "margin", 2.0)
    mine, other = named([Source("a", criterion="safe", strength="ignore", strength_scale=3.0), "b"], "hh", run)
    assert mine.labels == Labels("safe", "ignore", 3.0) and other.labels == run and (mine.format, other.format) == ("hh", "hh")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_above_0(scale: float) -> None:
    with pytest.raises(ConfigError, match="strength_scale must be above 0"):
        Source("a", strength_scale=scale)
