"""Judges that write behind the server: both orders, and no verdict is null with its reason, never a tie."""

from __future__ import annotations

import math
from typing import Any

import httpx
import numpy as np
import pytest
from judges.talking import Answer, failed, said, talking
from serving import serving

from prefrep.errors import UsageError
from prefrep.judges.named import from_recipe
from prefrep.records import Comparison, Message
from prefrep.scoring import RemoteScorer, ranked
from prefrep.server.models import named

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
            for path, status, words in (("rank", 500, "no verdict on 2 of 6 questions"), ("embed", 422, "embeds nothing"),
                                        ("rewards", 422, "gives no reward")):  # fmt: skip
                refused = httpx.post(f"{served.url}/v1/{path}", json=ASKED)
                assert (refused.status_code, words in refused.json()["error"]) == (status, True), refused.text

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


def test_judges_are_named_like_folders() -> None:
    recipe = "GenerativeJudge model=m url=http://127.0.0.1:9/v1"
    assert named([recipe, f"mine={recipe}", "runs/a/export"]) == {"judge": recipe, "mine": recipe, "a": "runs/a/export"}
    with pytest.raises(UsageError, match="there is a model 'judge' already"):
        named([recipe, recipe])
