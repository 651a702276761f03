"""What held-out verdicts of several rounds lead to: a warning, and an end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefrep.callbacks import HeldOut
from prefrep.callbacks.heldout import _compared
from prefrep.data.prompt_sources import Prompt
from prefrep.data.rounds import Rounds
from prefrep.judges import RuleJudge
from prefrep.records import Message

N = 40


def run(folder: Path, **wins: list[int]) -> Any:
    """The data of a run: of N prompts, so many were won in round 1, 2, ... by table; all others lost."""
    for name, counts in wins.items():
        for number, count in enumerate(counts, start=1):
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            lines = [{"row": row, "initial": [[1.0 if row < count else -1.0]]} for row in range(N)]
            (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return cast(Any, SimpleNamespace(rounds=Rounds(folder), prompts=lambda name: [None] * N))


@pytest.fixture
def judged() -> HeldOut:
    return HeldOut(RuleJudge("prefrep.judges.concise"), second_judge=RuleJudge("prefrep.judges.rules.concise"))


def test_a_policy_that_learns_mistakes_of_its_judge_is_named(judged: HeldOut, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = run(tmp_path, verdicts=[22, 28, 39], second_verdicts=[24, 30, 8])
    with caplog.at_level(logging.WARNING):
        assert judged._warned(data, 2) == {} and not caplog.records
        assert judged._warned(data, 3) == {"held_out_overoptimised_since": 2.0}
    (record,) = caplog.records
    assert "round 3: since round 2" in record.message and "second judge prefrep.judges.rules.concise" in record.message


@pytest.mark.parametrize(
    ("counts", "rounds"), [([25, 30, 35], 0), ([25, 35, 30], 1), ([35, 30, 30], 2), ([15, 18, 20], 3), ([20, 25, 25], 1)]
)
def test_rounds_without_gain(counts: list[int], rounds: int, tmp_path: Path) -> None:
    """Since the first of the highest win rates; the initial policy has 1/2, 20 of 40."""
    alone = HeldOut(RuleJudge("prefrep.judges.concise"), patience=1)
    assert alone._without_gain(run(tmp_path, verdicts=counts), 3) == rounds


def test_the_second_judge_decides_when_to_stop(judged: HeldOut, tmp_path: Path) -> None:
    assert judged._without_gain(run(tmp_path, verdicts=[25, 30, 35], second_verdicts=[35, 30, 25]), 3) == 2


def test_in_the_first_round_the_previous_policy_is_the_initial_one_and_judged_once() -> None:
    asked: list[int] = []

    class Counting(RuleJudge):
        def judge(self, records: Any, **more: Any) -> Any:
            records = list(records)
            asked.extend(len(record.responses) for record in records)
            return super().judge(records, **more)

    judge, prompts = Counting("prefrep.judges.concise"), [Prompt((Message("user", "Name a prime"),), "0", "here")]
    own, initial = [{"responses": ["It is the number seven.", "7"]}], [{"responses": ["Seven", "The number eleven is a prime."]}]
    (once,) = _compared(judge, prompts, own, [initial], [0])
    (twice,) = _compared(judge, prompts, own, [initial, initial], [0])
    assert once == twice and once["previous"] == once["initial"] and len(once["initial"]) == len(once["initial"][0]) == 2
    assert asked == [4, 6]
