"""Judges that write behind the server: both orders, and no verdict is null with its reason, never a tie."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import program
from judges.talking import Answer, failed, said, talking
from serving import serving

from prefrep.errors import ConfigError, PrefrepError, UsageError
from prefrep.judges.named import from_recipe
from prefrep.records import Comparison, Message
from prefrep.scoring import RemoteScorer, ranked
from prefrep.server.metrics import Metrics, ModelMetrics
from prefrep.server.models import Models, named
from prefrep.server.refusals import Refusal
from prefrep.server.settings import Serving
from prefrep.server.written import Heard, Interviewer

ASKED = {"prompt": "Name a prime", "responses": ["good 7", "bad 9", "mute"]}


pytestmark = pytest.mark.usefixtures("kept")


def leaning(body: dict[str, Any], before: int) -> Answer:
    """Prefers the good one, leans to the first, and has no words for a mute one that stands first."""
    text = body["messages"][-1]["content"]
    order = sorted((word for word in ("good", "bad", "mute") if word in text), key=text.index)
    if order[0] == "mute":
        return said("hm")
    return said("[[A]]" if order[0] == "good" or "good" not in order else "[[B]]")


def test_no_verdict_is_null_with_its_reason_and_never_a_tie() -> None:
    with talking(leaning) as talk:
        recipe = f"GenerativeJudge model=m url={talk.url}"
        with serving({"judge": recipe}) as served:  # type: ignore[dict-item]
            (about,) = httpx.get(f"{served.url}/v1/models").json()["data"]
            assert about["head"] == "GenerativeJudge" and about["pairwise"] and about["describe"]["abstains"]
            won = served.post("/v1/compare", prompt=ASKED["prompt"], responses=["good 7", "bad 9"])
            assert won == {"model": "judge", "log_odds": pytest.approx(math.log(3)), "probability": pytest.approx(0.75)}
            assert len(talk.bodies) == 2  # both orders
            found = served.post("/v1/table", **ASKED)
            assert found["no_verdict"] == [{"responses": [2, 0], "why": "no marker"}, {"responses": [2, 1], "why": "no marker"}]
            table = found["table"]
            assert [row[2] for row in table] == [None, None, 0] and table[2][:2] == [None, None]
            (here,) = from_recipe(recipe).tables([ranked(ASKED["prompt"], ASKED["responses"])])
            np.testing.assert_array_equal(np.array(table, np.float32), here)
            assert len(talk.bodies) == 6  # what was asked before is not asked again
            silent = served.post("/v1/compare", prompt=ASKED["prompt"], responses=["good 7", "mute"])
            assert silent["log_odds"] is None and silent["probability"] is None and silent["no_verdict"][0]["why"] == "no marker"

            order = served.post("/v1/rank", prompt=ASKED["prompt"], responses=["bad 9", "good 7"])
            assert order["order"] == [1, 0]
            before, unheard = len(talk.bodies), {**ASKED, "prompt": "Name another prime"}
            for path, status, words in (("rank", 500, "no verdict on 2 of 6 questions"), ("embed", 422, "embeds nothing"),
                                        ("rewards", 422, "gives no reward")):  # fmt: skip
                refused = httpx.post(f"{served.url}/v1/{path}", json=ASKED if path == "rank" else unheard)
                assert (refused.status_code, words in refused.json()["error"]) == (status, True), refused.text
            assert len(talk.bodies) == before  # nobody is asked in vain

            remote = RemoteScorer(served.url)
            pair = [Comparison((Message("user", "Name a prime"),), *((Message("assistant", each),) for each in ("good 7", worse)))
                    for worse in ("bad 9", "mute")]  # fmt: skip
            odds = list(remote.compare(pair))
            assert odds[0] == pytest.approx(math.log(3)) and math.isnan(odds[1]) and remote.describe()["abstains"]


def test_ratings_are_rewards() -> None:
    def rates(body: dict[str, Any], before: int) -> Answer:
        return said("[[8]]" if "good" in body["messages"][-1]["content"] else "[[3]]")

    with talking(rates) as talk, serving({"judge": f"GenerativeJudge model=m url={talk.url} form=rating"}) as served:  # type: ignore[dict-item]
        assert served.post("/v1/rewards", **ASKED)["rewards"] == [8, 3, 3]
        assert served.post("/v1/table", **ASKED)["table"] == [[0, 5, 5], [-5, 0, 0], [-5, 0, 0]]
        assert len(talk.bodies) == 3


def test_a_rating_without_a_verdict_is_null_and_one_response_needs_no_comparison() -> None:
    def rates(body: dict[str, Any], before: int) -> Answer:
        return said("hm" if "mute" in body["messages"][-1]["content"] else "[[8]]")

    with talking(rates) as talk, serving({"judge": f"GenerativeJudge model=m url={talk.url} form=rating"}) as served:  # type: ignore[dict-item]
        found = served.post("/v1/rewards", **ASKED)
        assert found["rewards"] == [8, 8, None] and found["no_verdict"] == [{"responses": [2], "why": "no marker"}]
        assert served.post("/v1/table", **ASKED)["table"] == [[0, 0, None], [0, 0, None], [None, None, 0]]
        (rewards,) = RemoteScorer(served.url).rewards([ranked(ASKED["prompt"], ASKED["responses"])])
        np.testing.assert_array_equal(rewards, np.array([8, 8, np.nan], np.float32))
    for form, asked in (("rating", 1), ("best-of", 0), ("choice", 0)):
        with talking(rates) as talk, serving({"judge": f"GenerativeJudge model=m url={talk.url} form={form}"}) as served:  # type: ignore[dict-item]
            assert served.post("/v1/table", prompt="Name a prime", responses=["7"])["table"] == [[0]] and len(talk.bodies) == asked
            assert [
                each.tolist() for each in from_recipe(f"GenerativeJudge model=m url={talk.url} form={form}").tables([ranked("Why?", ["7"])])
            ] == [[[0]]]


def test_an_error_of_the_endpoint_is_no_verdict_for_one_request_only() -> None:
    down = [True]

    def script(body: dict[str, Any], before: int) -> Answer:
        return failed(503) if down[0] and "bad" in body["messages"][-1]["content"] else leaning(body, before)

    with talking(script) as talk, serving({"judge": f"GenerativeJudge model=m url={talk.url}"}) as served:  # type: ignore[dict-item]
        assert served.post("/v1/compare", prompt="Name a prime", responses=["good 7", "7"])["log_odds"] is not None
        asked = {"prompt": "Name a prime", "responses": ["good 7", "bad 9"]}
        assert {each["why"] for each in served.post("/v1/compare", **asked)["no_verdict"]} == {"error"}
        down[0] = False
        assert served.post("/v1/compare", **asked)["log_odds"] == pytest.approx(math.log(3))
        (model,) = served.models.all()
        assert isinstance(model.engine, Interviewer) and model.engine.scorer.tally.questions == 0  # a server does not grow


def test_one_record_that_cannot_be_asked_about_costs_no_other_one() -> None:
    """Records that wait together: one with more responses than letters, and one whose answers are kept while the budget is spent."""
    with talking(lambda body, before: said("[[A]]")) as talk:
        judge = from_recipe(f"GenerativeJudge model=m url={talk.url} form=best-of max_requests=2")
        queue = Interviewer(judge, ModelMetrics(Metrics(), "judge"))
        few, more = ranked("Why?", ["a", "b"]), ranked("Who?", ["a", "b"])
        (first,) = queue.submit([few], Heard.table)
        np.testing.assert_allclose(first.result(30).value, np.zeros((2, 2)), atol=1e-6)  # A both times
        many = queue.submit([ranked("Why?", [str(n) for n in range(27)]), more, few], Heard.table)
        with pytest.raises(ConfigError, match="2 to 26 answers"):
            many[0].result(30)
        with pytest.raises(Refusal, match="budget of the judge"):
            many[1].result(30)
        np.testing.assert_array_equal(many[2].result(30).value, first.result().value)
        queue.close()


def test_a_wrong_judge_is_refused_at_the_start(tmp_path: Path) -> None:
    for recipe, words in ((f"GenerativeJudge model={tmp_path}", str(tmp_path)), ("GenerativeJudge model=m url=ftp://x", "no http address")):
        models = Models({"judge": recipe}, lambda folder: None, Serving(), Metrics())  # type: ignore[arg-type, return-value]
        models.load()
        with pytest.raises(PrefrepError, match=re.escape(words)):
            models.check()


def test_a_spent_budget_and_an_endpoint_that_is_gone_are_no_verdicts_either() -> None:
    with talking(leaning) as talk:
        url = talk.url
        with serving({"judge": f"GenerativeJudge model=m url={url} max_requests=2"}) as served:  # type: ignore[dict-item]
            answer = httpx.post(f"{served.url}/v1/table", json=ASKED)
            assert answer.status_code == 402 and "max_requests" in answer.json()["error"]
    with serving({"judge": f"GenerativeJudge model=other url={url}"}) as served:  # type: ignore[dict-item]
        answer = httpx.post(f"{served.url}/v1/table", json=ASKED, timeout=60)
        assert answer.status_code == 502 and "127.0.0.1" not in answer.text
    with talking(lambda body, before: failed(401, "sk-secret")) as talk:
        with serving({"judge": f"GenerativeJudge model=m url={talk.url}"}) as served:  # type: ignore[dict-item]
            answer = httpx.post(f"{served.url}/v1/compare", json={**ASKED, "responses": ["a", "b"]})
            assert answer.status_code == 502 and "sk-" not in answer.text


def test_programs_that_need_every_score_refuse_a_judge_behind_a_server(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps([{"instruction": "Why?", "output": name}]))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "Why?", "chosen": "a", "rejected": "b"}))
    with talking(leaning) as talk, serving({"judge": f"GenerativeJudge model=m url={talk.url}"}) as served:  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="every row needs a score"):
            program("score")(["--model", served.url, "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "s.jsonl")])
        policies = [f"--policy={name}={tmp_path / name}.json" for name in "ab"]
        with pytest.raises(UsageError, match="a league needs all"):
            program("eval", "league")([*policies, "--judge", served.url, "--out", str(tmp_path / "league")])
        with pytest.raises(ConfigError, match="judge is a judge that writes"):
            _ = RemoteScorer(served.url).encode
        assert not talk.bodies


def test_judges_are_named_like_folders() -> None:
    recipe = "GenerativeJudge model=m url=http://127.0.0.1:9/v1"
    assert named([recipe, f"mine={recipe}", "runs/a/export"]) == {"judge": recipe, "mine": recipe, "a": "runs/a/export"}
    with pytest.raises(UsageError, match="there is a model 'judge' already"):
        named([recipe, recipe])
