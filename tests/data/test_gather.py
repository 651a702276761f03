"""Responses to equal prompts come together in the order of the file, in memory that does not grow."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefrep.data.gather import gathered
from prefrep.records import Message, RankedResponses


def rated(prompt: str, answer: str, score: float = 1.0, annotator: str = "") -> RankedResponses:
    responses = ((Message("assistant", answer),),)
    return RankedResponses((Message("user", prompt),), responses, (score,), id=answer, annotator=annotator)


def test_groups_and_their_members_keep_the_order_of_the_file() -> None:
    draw = random.Random(0)
    records = [rated(draw.choice("abcdefgh"), f"{i}", draw.random(), draw.choice(["", "me"])) for i in range(200)]
    groups: dict[tuple[object, str], list[RankedResponses]] = {}
    for record in records:
        groups.setdefault((record.prompt, record.annotator), []).append(record)
    found = list(gathered(records))
    assert [each.id for each in found] == [group[0].id for group in groups.values()]
    for each, group in zip(found, groups.values(), strict=True):
        assert each.responses == tuple(record.responses[0] for record in group)
        assert each.scores == tuple(score for record in group for score in record.scores or ())
    assert list(gathered([])) == []


def test_another_thread_goes_on() -> None:
    found = gathered([rated("p", "a"), rated("q", "b")])
    assert next(found).id == "a"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: next(found).id).result() == "b"


def test_a_prompt_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a few numbers of 8 bytes; digests are in memory a part at a time."""
    monkeypatch.setattr("prefrep.data.firsts._PART", 256)

    def peak(rows: int) -> int:
        def records() -> Iterator[RankedResponses]:
            return (rated(f"{i}", "a") for i in range(rows))

        tracemalloc.start()
        assert sum(1 for _ in gathered(records())) == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(500), peak(4500)
    assert many - few < 4000 * 24
