"""Right and wrong verdicts, case by case."""

from __future__ import annotations

import pytest

from prefrep.metrics.verdicts import is_right


@pytest.mark.parametrize(
    ("score", "probability", "right"),
    [
        (0.1, 1.0, True), (-0.1, 1.0, False), (0.0, 1.0, False), (0.1, 0.0, False), (-0.1, 0.0, True), (0.0, 0.0, False),
        (0.1, 0.6, True), (-0.1, 0.4, True), (5.0, 0.5, None), (0.0, 0.5, None),
    ],
)  # fmt: skip
def test_the_preferred_answer_must_score_higher(score: float, probability: float, right: bool | None) -> None:
    assert is_right(score, probability) is right
