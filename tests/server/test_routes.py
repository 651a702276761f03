"""Every route answers what `Scorer` answers in process."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from serving import Serves, random_records, serving

from prefrep.annotators import Annotators
from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.people import introduce
from prefrep.nn.personal import PersonalHead
from prefrep.records import Comparison
from prefrep.scoring import BlockScorer, RemoteScorer, Scorer, ranked
from prefrep.scoring.asked import messages

PROMPT, RESPONSES = "Name a prime", ["7", "9", "I would rather not"]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]


@pytest.mark.parametrize("name", ["bt", "gpm", "hybrid", "pair"])
def test_questions_about_one_prompt(name: str, served: Serves, scorers: dict[str, Scorer]) -> None:
    table = scorers[name].table(PROMPT, RESPONSES)
    asked = {"model": name, "prompt": PROMPT, "responses": RESPONSES}
    np.testing.assert_allclose(served.post("/v1/table", **asked)["table"], table, atol=1e-4)
    rank = served.post("/v1/rank", **asked)
    assert rank["order"] == scorers[name].rank(PROMPT, RESPONSES)
    np.testing.assert_allclose(rank["scores"], table.mean(1), atol=1e-4)
    p = 1 / (1 + np.exp(-table[0, 1:].astype(np.float64)))
    assert rank["win_probabilities"][0] == pytest.approx(p.mean(), abs=1e-4)
    compared = served.post("/v1/compare", **asked | {"responses": RESPONSES[:2]})
    assert compared["log_odds"] == pytest.approx(table[0, 1], abs=1e-4) and compared["probability"] == pytest.approx(p[0], abs=1e-4)


def test_conversations_and_texts_without_a_prompt(served: Serves, scorers: dict[str, Scorer]) -> None:
    for prompt in (CHAT, []):
        found = served.post("/v1/table", model="gpm", prompt=prompt, responses=RESPONSES)["table"]
        np.testing.assert_allclose(found, scorers["gpm"].table(prompt, RESPONSES), atol=1e-4)


def test_several_records_in_one_request(served: Serves, scorers: dict[str, Scorer]) -> None:
    records = random_records(3, 9, 3)
    rows = [{"prompt": r.prompt[0].content, "responses": [m[0].content for m in r.responses]} for r in records]
    found = served.post("/v1/table", model="hybrid", records=rows)["records"]
    for a, b in zip(found, scorers["hybrid"].tables(records), strict=True):
        np.testing.assert_allclose(a["table"], b, atol=1e-4)


@pytest.mark.parametrize("name", ["gpm", "hybrid"])
def test_blocks_add_up(name: str, served: Serves, folders: dict[str, Path]) -> None:
    found = served.post("/v1/table", model=name, prompt=PROMPT, responses=RESPONSES, blocks=True)
    expected = next(BlockScorer.from_pretrained(folders[name]).tables([ranked(PROMPT, RESPONSES)]))
    np.testing.assert_allclose(found["blocks"], expected, atol=1e-4)
    np.testing.assert_allclose(np.sum(found["blocks"], 0), found["table"], atol=1e-4)


@pytest.mark.parametrize("name", ["bt", "gpm", "hybrid"])
def test_clients_can_compare_embeddings_themselves(name: str, served: Serves, scorers: dict[str, Scorer]) -> None:
    found = served.post("/v1/embed", model=name, prompt=PROMPT, responses=RESPONSES)
    u, a = np.array(found["embeddings"]), np.array(found["operator"])
    np.testing.assert_array_equal(a, -a.T)
    np.testing.assert_allclose(u @ a @ u.T, scorers[name].table(PROMPT, RESPONSES), atol=1e-4)


def test_one_number_per_response(served: Serves, scorers: dict[str, Scorer]) -> None:
    asked = {"prompt": PROMPT, "responses": RESPONSES}
    table, others = scorers["gpm"].table(PROMPT, [*RESPONSES, "5"]), scorers["gpm"].table(PROMPT, RESPONSES)
    group = served.post("/v1/score", model="gpm", **asked)
    assert group["rule"] == "group" and group["group_sizes"] == [3, 3, 3]
    np.testing.assert_allclose(group["scores"], [np.delete(others[i], i).mean() for i in range(3)], atol=1e-4)
    anchor = served.post("/v1/score", model="gpm", anchors=["5"], **asked)
    assert anchor["rule"] == "anchor"
    np.testing.assert_allclose(anchor["scores"], table[:3, 3], atol=1e-4)
    each = served.post("/v1/score", model="gpm", anchors=["5", "9", "5"], **asked)["scores"]
    np.testing.assert_allclose(each, [table[0, 3], table[1, 1], table[2, 3]], atol=1e-4)
    rewards = next(scorers["bt"].rewards([ranked(PROMPT, RESPONSES)]))
    reward = served.post("/v1/score", model="bt", **asked)
    assert reward["rule"] == "reward"
    np.testing.assert_allclose(reward["scores"], rewards, atol=1e-4)
    relative = served.post("/v1/score", model="bt", rule="group", **asked)["scores"]
    np.testing.assert_allclose(relative, [rewards[i] - np.delete(rewards, i).mean() for i in range(3)], atol=1e-4)
    assert "rule: must be one of group, anchor" in served.refused("/v1/score", 422, model="gpm", rule="reward", **asked)


def together(calls: list[tuple[str, dict[str, object]]], url: str) -> list[dict[str, object]]:
    """Answers to requests that are sent at once."""
    answers: list[dict[str, object]] = [{}] * len(calls)

    def call(i: int) -> None:
        answers[i] = httpx.post(url + calls[i][0], json=calls[i][1], timeout=60).json()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_single_responses_of_several_requests_make_a_group(served: Serves, scorers: dict[str, Scorer]) -> None:
    filled, not_filled = (served.counted("groups_total", filled=each) for each in ("yes", "no"))
    prompt = "A prompt of its own"
    table = scorers["gpm"].table(prompt, RESPONSES)
    found = together([("/v1/score", {"model": "gpm", "prompt": prompt, "responses": [each]}) for each in RESPONSES], served.url)
    assert [each["group_sizes"] for each in found] == [[3]] * 3
    np.testing.assert_allclose([each["scores"][0] for each in found], [np.delete(table[i], i).mean() for i in range(3)], atol=1e-4)  # type: ignore[index]
    assert served.counted("groups_total", filled="yes") == filled + 1
    # Two come, and the third one does not: they are compared with each other after the wait.
    table = scorers["gpm"].table(prompt, RESPONSES[:2])
    found = together([("/v1/score", {"model": "gpm", "prompt": prompt, "responses": [each]}) for each in RESPONSES[:2]], served.url)
    np.testing.assert_allclose([each["scores"][0] for each in found], [table[0, 1], table[1, 0]], atol=1e-4)  # type: ignore[index]
    alone = served.post("/v1/score", model="gpm", prompt="Nobody else", responses=["7"])
    assert alone["scores"] == [0.0] and alone["group_sizes"] == [1]
    assert served.counted("groups_total", filled="no") == not_filled + 2


def test_one_that_cannot_be_read_does_not_spoil_its_group(folders: dict[str, Path], scorers: dict[str, Scorer]) -> None:
    with serving({"gpm": folders["gpm"]}, group_size=3, group_wait=60_000, text_tokens=50) as it:
        bodies = [{"prompt": PROMPT, "responses": [each]} for each in ("7", "word " * 200, "9")]
        first, long, second = together([("/v1/score", body) for body in bodies], it.url)
        assert "responses[0]" in str(long["error"]) and "longer than the 50 tokens" in str(long["error"])
        s = scorers["gpm"].table(PROMPT, ["7", "9"])[0, 1]
        assert [first["scores"], second["scores"]] == [[pytest.approx(s, abs=1e-4)], [pytest.approx(-s, abs=1e-4)]]
        assert first["group_sizes"] == [2]
        bodies = [{"prompt": "word " * 200, "responses": [each]} for each in ("7", "8", "9")]
        assert all(str(each["error"]).startswith("prompt: ") for each in together([("/v1/score", body) for body in bodies], it.url))


def test_whose_client_leaves_leaves_the_group(served: Serves, scorers: dict[str, Scorer]) -> None:
    prompt = "A prompt that one leaves"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served.url + "/v1/score", json={"model": "gpm", "prompt": prompt, "responses": ["gone"]}, timeout=0.05)
    found = together([("/v1/score", {"model": "gpm", "prompt": prompt, "responses": [each]}) for each in RESPONSES], served.url)
    assert [each["group_sizes"] for each in found] == [[3]] * 3


def test_anchors_of_a_file(folders: dict[str, Path], scorers: dict[str, Scorer], tmp_path: Path) -> None:
    (tmp_path / "anchors.jsonl").write_text('{"prompt": "Name a prime", "response": "5"}\n\n')
    with serving({"gpm": folders["gpm"]}, anchors=str(tmp_path / "anchors.jsonl")) as it:
        found = it.post("/v1/score", prompt=PROMPT, responses=["7"])
        assert found["rule"] == "anchor"
        assert found["scores"][0] == pytest.approx(scorers["gpm"].table(PROMPT, ["7", "5"])[0, 1], abs=1e-4)
        assert it.post("/v1/score", prompt="Another", responses=["7", "8"])["rule"] == "group"
        assert "its prompt has no anchor" in it.refused("/v1/score", 422, prompt="Another", responses=["7"], rule="anchor")


def test_truncation_is_reported(served: Serves, scorers: dict[str, Scorer]) -> None:
    long = "word " * 600
    found = served.post("/v1/table", model="gpm", prompt=long, responses=["a", "b"])
    assert found["encoded"] == {"records": 1, "truncated prompts": 1}
    np.testing.assert_allclose(found["table"], scorers["gpm"].table(long, ["a", "b"]), atol=1e-4)


def test_models_health_metrics_docs(served: Serves, folders: dict[str, Path]) -> None:
    models = {each["id"]: each for each in served.client.get("/v1/models").json()["data"]}
    assert list(models) == ["bt", "gpm", "hybrid", "pair"]
    assert models["gpm"]["head"] == "GPMHead" and models["gpm"]["pairwise"] and not models["bt"]["pairwise"]
    assert models["gpm"]["versions"]["torch"] and models["gpm"]["max_length"] == 512
    from prefrep.io.fingerprint import fingerprint

    assert models["gpm"]["fingerprint"] == fingerprint(folders["gpm"])
    assert served.client.get("/health").json() == {"status": "ok"}
    before = served.counted("tokens_read_total", model="bt"), served.counted("tokens_shared_total", model="bt")
    served.post("/v1/table", model="bt", prompt=PROMPT, responses=RESPONSES)
    after = served.counted("tokens_read_total", model="bt"), served.counted("tokens_shared_total", model="bt")
    assert after[0] > before[0] and after[1] > before[1]
    metrics = served.client.get("/metrics").text
    assert 'prefrep_requests_total{path="/v1/table",status="200"}' in metrics and "prefrep_request_seconds_bucket" in metrics
    described = served.client.get("/openapi.json").json()
    body = described["paths"]["/v1/compare"]["post"]["requestBody"]["content"]["application/json"]
    assert served.client.post("/v1/compare", json=body["example"]).status_code == 200
    assert "$ref" not in str(body)
    docs = served.client.get("/docs").text
    assert all(path in docs for path in described["paths"]) and "http://" not in docs and "https://" not in docs


def test_people_are_asked_by_name(tmp_path: Path, served: Serves, scorers: dict[str, Scorer]) -> None:
    """By name, each for oneself, also where requests share a batch; the population for others; models without people refuse."""
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    torch.manual_seed(1)
    head = PersonalHead(backbone.hidden_size)
    introduce(head, Annotators({"Ada": 3, "Bo": 2}))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save(tmp_path / "people", backbone, head, 0.5, EncodeConfig(max_length=512), backbone.tokenizer(), {})
    scorer = Scorer.from_pretrained(tmp_path / "people")
    asked = {"prompt": PROMPT, "responses": RESPONSES}
    tables = {name: scorer.table(PROMPT, RESPONSES, name) for name in ("Ada", "Bo", "")}
    assert min(np.abs(tables["Ada"] - tables["Bo"]).max(), np.abs(tables["Ada"] - tables[""]).max()) > 1e-2
    with serving({"people": tmp_path / "people"}) as people:
        rows = people.post("/v1/table", records=[{**asked, "annotator": name} for name in ("Ada", "Bo", "", "nobody")])["records"]
        for row, name in zip(rows, ("Ada", "Bo", "", ""), strict=True):
            np.testing.assert_allclose(row["table"], tables[name], atol=1e-4)
        assert [row["answered_by"] for row in rows] == ["annotator", "annotator", "population", "population"]
        remote = RemoteScorer(people.url)
        np.testing.assert_allclose(remote.table(PROMPT, RESPONSES, "Bo"), tables["Bo"], atol=1e-4)
        pair = Comparison(messages(PROMPT, "user"), messages("7", "assistant"), messages("9", "assistant"), annotator="Ada")
        assert next(remote.compare([pair])) == pytest.approx(float(tables["Ada"][0, 1]), abs=1e-4)
        assert "each of the records" in people.refused("/v1/table", 422, records=[asked], annotator="Ada")
        people.models("people").engine.scorer.asking.unknown = "error"
        assert "records[1].annotator: people does not know them" in people.refused(
            "/v1/table", 422, records=[asked | {"annotator": "Ada"}, asked | {"annotator": "Cy"}, asked]
        )
        assert people.post("/v1/table", records=[asked | {"annotator": "Ada"}, asked])["records"]
    assert "answers everybody alike" in served.refused("/v1/rank", 422, model="gpm", annotator="Ada", **asked)
    with pytest.raises(ConfigError, match="answers everybody alike"):
        RemoteScorer(f"{served.url}#gpm").table(PROMPT, RESPONSES, "Ada")
    np.testing.assert_allclose(  # data may name annotators that a model without people does not ask
        next(RemoteScorer(f"{served.url}#gpm").compare([pair])), scorers["gpm"].table(PROMPT, RESPONSES)[0, 1], atol=1e-4
    )
