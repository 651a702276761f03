"""Rows of RM-Bench, JudgeBench, RMB and PPE in their published shape; what they are told from, and sentences for broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from prefrep.data.formats import detect, to_record
from prefrep.errors import RecordError
from prefrep.records import Comparison, Message, Messages, RankedResponses

HERE = "f.jsonl:1"
ASKED = (Message("user", "2+2"),)


def bot(*texts: str) -> tuple[Messages, ...]:
    return tuple((Message("assistant", text),) for text in texts)


STYLES: dict[str, Any] = {"id": 8, "prompt": "2+2", "chosen": ["4", "It is 4", "**4**"], "rejected": ["5", "It is 5", "**5**"]}
JUDGE = {
    "pair_id": "p", "original_id": 7, "source": "mmlu-pro-law", "question": "2+2", "response_model": "gpt-4o", "response_A": "4",
    "response_B": "5", "label": "A>B",
}  # fmt: skip
GPT = {"original_id": "7", "response_model": "gpt-4o"}
TALK = [{"role": "user", "content": "2+2", "language": "en"}]
RMB_PAIR = {
    "pair_uid": "u",
    "conversation_input": TALK,
    "chosen": {"llm_name": "a", "answer": "4"},
    "reject": {"llm_name": "b", "answer": "5"},
}
RMB_BEST = {
    "bon_uid": "u", "conversation_input": TALK, "bon_best": {"llm_name": "a", "answer": "4"},
    "loser_list": [{"llm_name": "b", "answer": "5"}, {"llm_name": "c", "answer": "6"}], "category_path": "Helpfulness/Code/Debug",
}  # fmt: skip
HUMAN = {"question_id": "q", "prompt": "2+2", "response_1": "5", "response_2": "4", "model_a": "a", "model_b": "b", "winner": "model_b"}
CORRECT = {"question_id": "q", "prompt": "2+2", **{f"response_{i}": str(i) for i in (10, 2, 1)}, "scores": [False, True, 1]}

ROWS: list[tuple[str, dict[str, Any], Comparison | RankedResponses]] = [
    (
        "rmbench", {**STYLES, "domain": "chat"},
        RankedResponses(ASKED, bot("4", "It is 4", "**4**", "5", "It is 5", "**5**"), (1.0,) * 3 + (0.0,) * 3, id="8", source=HERE,
                        tags={"domain": "chat"}),
    ),
    (
        "judgebench", JUDGE,
        Comparison(ASKED, *bot("4", "5"), subset="mmlu-pro-law", id="p", source=HERE, tags=GPT),
    ),
    (
        "judgebench", {**JUDGE, "label": "B>A"},
        Comparison(ASKED, *bot("5", "4"), subset="mmlu-pro-law", id="p", source=HERE, tags=GPT),
    ),
    ("rmb", RMB_PAIR, Comparison(ASKED, *bot("4", "5"), id="u", source=HERE, tags={"chosen_model": "a", "rejected_model": "b"})),
    (
        "rmb", RMB_BEST,
        RankedResponses(ASKED, bot("4", "5", "6"), (1.0, 0.0, 0.0), subset="Helpfulness/Code/Debug", id="u", source=HERE,
                        tags={"models": "a, b, c"}),
    ),
    (
        "ppe", HUMAN,
        Comparison(ASKED, *bot("4", "5"), id="q", source=HERE, tags={"chosen_model": "b", "rejected_model": "a", "winner": "model_b"}),
    ),
    (
        "ppe", {**HUMAN, "winner": "tie (bothbad)"},
        Comparison(ASKED, *bot("5", "4"), 0.5, id="q", source=HERE,
                   tags={"chosen_model": "a", "rejected_model": "b", "winner": "tie (bothbad)"}),
    ),
    # Columns in the order of their numbers: response_10 is the last one, not the second.
    ("ppe", CORRECT, RankedResponses(ASKED, bot("1", "2", "10"), (0.0, 1.0, 1.0), id="q", source=HERE)),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "record"), ROWS)
def test_rows_are_detected_and_read(format: str, row: dict[str, Any], record: Comparison | RankedResponses) -> None:
    assert detect(row, HERE) == format
    assert to_record(row, "auto", HERE) == record == to_record(row, format, HERE)


def test_rmbench_and_rewardbench2_are_told_apart() -> None:
    assert detect(STYLES, HERE) == "rmbench"  # the published single files have no column `domain`
    assert detect({**STYLES, "num_correct": 3}, HERE) == "rewardbench2"
    assert detect({**STYLES, "num_correct": None}, HERE) == "rmbench"  # Parquet fills absent columns with nulls
    assert detect({**STYLES, "chosen": ["4"]}, HERE) == "rewardbench2"


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        ("rmbench", {**STYLES, "chosen": ["4"]}, "'chosen' must be a list of 3 texts"),
        ("judgebench", {**JUDGE, "label": "A=B"}, "'label' must be one of 'A>B', 'B>A', found 'A=B'"),
        ("judgebench", {**JUDGE, "response_B": None}, "no 'response_B'"),
        ("rmb", {**RMB_PAIR, "reject": "5"}, "'reject' must be an object"),
        ("rmb", {**RMB_PAIR, "reject": {"llm_name": "b"}}, "no 'reject.answer'"),
        ("rmb", {**RMB_BEST, "loser_list": []}, "'loser_list' must be a non-empty list"),
        ("ppe", {**HUMAN, "winner": "me"}, "'winner' must be one of 'model_a', 'model_b', 'tie'"),
        ("ppe", {**HUMAN, "response_3": "6"}, "needs response_1 and response_2, found response_1, response_2, response_3"),
        ("ppe", {**CORRECT, "scores": [1, 0]}, "2 scores for 3 responses"),
        ("ppe", {**CORRECT, "scores": "yes"}, "'scores' must be a list"),
        ("ppe", {**CORRECT, "response_2": None}, "no 'response_2'"),
    ],
)  # fmt: skip
def test_broken_rows_are_named(format: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message) as raised:
        to_record(row, format, HERE)
    assert str(raised.value).startswith(HERE)
