"""Judges behind an endpoint: what is found out by asking, faults, budgets, and what is kept."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import comparison
from judges.talking import Answer, asleep, failed, fair, judge, pairs, said, shown_first, talking

from prefrep.errors import ConfigError
from prefrep.judges import GenerativeJudge
from prefrep.judges.writing.judgments import BudgetError, VerdictError
from prefrep.parts import recipe
from prefrep.scoring import ranked
from prefrep.web import ServerError

pytestmark = pytest.mark.usefixtures("kept")


def test_log_probabilities_are_found_out_by_asking_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def gives(body: dict[str, Any], before: int) -> Answer:
        a = 0.8 if shown_first(body) == "good" else 0.4
        return said("A", logprobs=[("A", {"A": math.log(a), "B": math.log(1 - a)})] if body.get("logprobs") else None)

    def refuses(body: dict[str, Any], before: int) -> Answer:
        return failed(400, "logprobs: not supported") if "logprobs" in body else said("A")

    def only_five(body: dict[str, Any], before: int) -> Answer:
        return failed(400, "top_logprobs: at most 5") if body.get("top_logprobs", 0) > 5 else gives(body, before)

    logit = math.log(0.8 / 0.2) / 2 - math.log(0.4 / 0.6) / 2
    for script, expected, questions, words in (
        (gives, logit, 4, "gives log-probabilities"),
        (only_five, logit, 5, "gives log-probabilities"),
        (refuses, 0.0, 6, "gives no log-probabilities: probabilities come from counted verdicts"),
    ):
        with talking(script) as talk:
            assert list(judge(talk, style="letter", concurrency=1).compare(pairs(2))) == pytest.approx([expected] * 2)
            assert len(talk.bodies) == questions
            assert words in caplog.text
            caplog.clear()


@pytest.mark.parametrize("lists", [True, False])
def test_the_name_of_the_longest_answer_is_found_out_by_asking_once(lists: bool) -> None:
    """OpenAI's newer models refuse `max_tokens`, and some of them log-probabilities too."""
    sent = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def newer(body: dict[str, Any], before: int) -> Answer:
        if "max_tokens" in body:
            return failed(400, sent)
        return fair(body, before) if lists or "logprobs" not in body else failed(400, "logprobs: not supported")

    with talking(newer) as talk:
        assert list(judge(talk, max_tokens=77).compare(pairs(3))) == pytest.approx([math.log(3)] * 3)
        assert [body["max_completion_tokens"] for body in talk.bodies if "max_tokens" not in body] == [77] * (6 if lists else 8)
        assert sum("max_tokens" in body for body in talk.bodies) == 1


def test_a_limit_is_not_lost_where_a_server_knows_neither_name() -> None:
    with talking(lambda body, before: failed(400, "max_tokens or max_completion_tokens is too large; the context is 10 tokens")) as talk:
        assert all(map(math.isnan, judge(talk).compare(pairs(2))))
        assert sum("max_completion_tokens" in body for body in talk.bodies) == 1
        assert all("max_tokens" in body or "max_completion_tokens" in body for body in talk.bodies)


def test_scores_and_verdicts_hear_the_same_and_the_next_run_asks_again() -> None:
    """A question without an answer is asked `retries` times more, and not again in this run; refusals are answers, and kept."""
    down, record = [True], ranked("Say the number 1", ["good 1", "bad 1"])

    def script(body: dict[str, Any], before: int) -> Answer:
        text = body["messages"][-1]["content"]
        if "number 0" in text:
            return fair(body, before)
        return failed(400, "too long") if "number 2" in text else (0, {}, b"") if down[0] else fair(body, before)

    with talking(script) as talk:
        one = judge(talk, concurrency=1)
        some = [pairs(1)[0], *pairs(3)[1:]]
        first = list(one.compare(some))
        assert [math.isnan(each) for each in first] == [False, True, True]
        asked = len(talk.bodies)
        down[0] = False
        assert [each.why for each in one.judgments([record])] == ["error"] * 2  # of answers that scores did not hear
        assert list(map(math.isnan, one.compare(some))) == list(map(math.isnan, first)) and len(talk.bodies) == asked
        again = judge(talk, concurrency=1)
        assert [each.why for each in again.judgments([record])] == ["", ""]
        assert [math.isnan(each) for each in again.compare(some)] == [False, False, True] and len(talk.bodies) == asked + 2


def test_what_is_in_flight_is_kept_when_another_question_ends_the_run() -> None:
    def script(body: dict[str, Any], before: int) -> Answer:
        text = body["messages"][-1]["content"]
        return failed(401, "no") if "number 3" in text and refuses[0] else asleep(0.0 if "number 0" in text else 0.3, fair(body, before))

    refuses = [True]
    with talking(script) as talk:
        with pytest.raises(ServerError, match="refuses the key"):
            list(judge(talk, concurrency=8, orders="one").compare(pairs(6)))
        refuses[0] = False
        list(judge(talk, concurrency=8, orders="one").compare(pairs(6)))
        assert len(talk.answered) == 6 and set(talk.answered.values()) == {1}


FAULTS = {
    "500": lambda before: failed(500) if before < 2 else None,
    "429": lambda before: failed(429, "slow down", Retry_After="0") if before < 2 else None,
    "503 for good": lambda before: failed(503),
    "cut-off body": lambda before: (200, {"Cut": "yes"}, said("[[A]]")[2]) if before < 1 else None,
    "wrong JSON": lambda before: (200, {}, b'{"choices": [') if before < 1 else None,
    "another body": lambda before: (200, {}, b'{"detail": "hm"}') if before < 1 else None,
    "no choices": lambda before: (200, {}, b'{"choices": []}'),
    "two markers": lambda before: said("[[A]] [[B]]"),
    "empty": lambda before: said(None),
    "cut off": lambda before: said("I think that [[A]]", "length"),
    "refusal": lambda before: said(None, refusal="I cannot help with that."),
    "filtered": lambda before: said("", "content_filter"),
    "huge": lambda before: said("x" * 3_000_000),
    "too long": lambda before: failed(400, "maximum context length is 10 tokens"),
    "time-out": lambda before: asleep(1.8, said("[[A]]")) if before < 1 else None,
}
LOST = {
    "503 for good": "error", "no choices": "error", "two markers": "contradiction", "empty": "empty", "cut off": "cut off",
    "refusal": "refusal", "filtered": "refusal", "huge": "no marker", "too long": "refused",
}  # fmt: skip


def test_every_fault_loses_nothing_and_doubles_nothing() -> None:
    names = list(FAULTS)
    some = [comparison(f"Fault: {name}", "good", "bad", id=name) for name in (*names, "none")]

    def script(body: dict[str, Any], before: int) -> Answer:
        name = next((name for name in names if f"Fault: {name}\n" in body["messages"][-1]["content"]), None)
        return (name and FAULTS[name](before)) or fair(body, before)

    with talking(script) as talk:
        one = judge(talk, timeout=1.2, concurrency=4)
        # the first question must have an answer, or the server counts as gone
        found = dict(zip(["none", *names], one.compare([some[-1], *some[:-1]]), strict=True))
        for name, value in found.items():
            assert (math.isnan(value)) == (name in LOST), name
            assert math.isnan(value) or value == pytest.approx(math.log(3)), name
        assert one.tally.questions == 2 * len(some)
        assert {why: one.tally.none[why] for why in one.tally.none} == {
            why: 2 * list(LOST.values()).count(why) for why in set(LOST.values())
        }
        assert max(talk.answered.values()) <= 2 * 6  # only bodies that are none are asked for again
        with pytest.raises(VerdictError, match=r"18 of 32 questions have no verdict .*: 4 x ''; 2 x '"):
            one.check()
        # a second run asks only what had no answer, and finds the same
        before = set(talk.asked), sum(talk.asked.values())
        again = judge(talk, timeout=1.2, retries=0)
        list(again.compare(some))
        assert set(talk.asked) == before[0] and again.tally.none == one.tally.none
        for content, count in talk.answered.items():
            assert count == 1 or "no choices" in content or "another body" in content or "wrong JSON" in content, content


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with talking(fair) as talk:
        url = talk.url
    with pytest.raises(ServerError, match=r"no answer from m \(Connection error.*is the server running there"):
        list(GenerativeJudge("m", url).compare(pairs(1)))


def test_a_server_that_goes_away_is_said_and_what_it_answered_is_kept() -> None:
    with talking(lambda body, before: fair(body, before) if sum(talk.answered.values()) < 130 else (0, {}, b"")) as talk:
        found = judge(talk, concurrency=1).compare(pairs(70))
        assert [next(found) for _ in range(64)] == pytest.approx([math.log(3)] * 64)
        with pytest.raises(ServerError, match="is the server running there"):
            list(found)
        assert set(talk.answered.values()) == {1} and sum(talk.answered.values()) == 130
        talk.script = fair
        assert len(list(judge(talk, concurrency=1).compare(pairs(70)))) == 70
        assert set(talk.answered.values()) == {1} and sum(talk.answered.values()) == 140


def test_keys_come_from_the_environment_and_go_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kept: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    caplog.set_level(logging.DEBUG, "prefrep")
    with talking(lambda body, before: failed(401, "Incorrect API key: sk-secret")) as talk:
        one = judge(talk, key_env="MY_KEY")
        with pytest.raises(ServerError, match=r"refuses the key \(Incorrect API key: \(key\)\); set MY_KEY") as error:
            list(one.compare(pairs(1)))
        assert talk.keys == {"Bearer sk-secret"}
        shown = f"{error.value}{caplog.text}{one.describe()}{recipe(one)}{vars(one)}"
        assert "sk-secret" not in shown + "".join(file.read_bytes().decode("latin-1") for file in kept.glob("*"))
    with pytest.raises(ConfigError, match="keys do not belong there"):
        list(GenerativeJudge("m", "http://me:sk-secret@127.0.0.1/v1").compare(pairs(1)))


def test_budgets_end_a_run_and_a_larger_one_goes_on() -> None:
    with talking(fair) as talk:
        some = pairs(10)
        with pytest.raises(BudgetError, match=r"7 requests of 84 tokens, and its budget \(max_requests\) is spent"):
            list(judge(talk, max_requests=7).compare(some))
        assert len(talk.bodies) == 7
        with pytest.raises(BudgetError, match=r"\(max_total_tokens\) is spent"):
            list(judge(talk, max_total_tokens=50, concurrency=1).compare(some))
        assert len(talk.bodies) == 7 + 5  # twelve tokens each
        assert list(judge(talk, max_requests=8).compare(some)) == pytest.approx([math.log(3)] * 10)
        assert len(talk.bodies) == 20 == len(talk.answered)


def test_requests_are_in_flight_together_and_no_more_than_allowed() -> None:
    with talking(lambda body, before: asleep(0.05, fair(body, before))) as talk:
        list(judge(talk, concurrency=4).compare(pairs(10)))
        assert 2 <= talk.most_together <= 4
