"""Equal rows without names: copies of a file, or votes of several people, which show in that others disagree on the pair."""

from __future__ import annotations

import pytest
from conftest import comparison

from prefrep.data.summary import Summary
from prefrep.records import Comparison


def counts(*records: Comparison) -> tuple[int, int]:
    summary = Summary("x")
    for record in records:
        summary.add(record, 1, (2, 2))
    summary.end()
    return summary.counts["duplicates"], summary.counts["repeated votes"]


VOTE, OTHER = comparison("p", "a", "b"), comparison("p", "b", "a")


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_votes_are_told_from_copies_whenever_somebody_disagrees(place: int) -> None:
    records = [VOTE, VOTE, VOTE]
    assert counts(*records) == (2, 0)
    records.insert(place, OTHER)
    assert counts(*records) == (0, 2)


def test_a_tie_disagrees_and_another_pair_does_not() -> None:
    assert counts(VOTE, comparison("p", "a", "b", probability=0.5), VOTE) == (0, 1)
    assert counts(VOTE, comparison("p", "c", "b"), VOTE) == (1, 0)
    named = comparison("p", "a", "b", annotator="me")
    assert counts(named, OTHER, named) == (1, 0)  # one person's vote twice is a copy
