"""Other projects' clients: what they send and what they read, from their sources."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Serves, serving

from prefrep.scoring import Scorer, ranked

PROMPT = "<|im_start|>user\nName a prime<|im_end|>\n<|im_start|>assistant\n"


def query(response: str) -> str:
    return f"{PROMPT}{response}<|im_end|>\n<|endoftext|>"


async def fetch(urls: str, queries: list[str], prompts: list[str], labels: list[Any]) -> list[dict[str, Any]]:
    """What OpenRLHF's client does: the URLs share the queries, each is asked, also about none; 5 tries; any status but 2xx is a failure."""
    addresses = urls.split(",")
    share = -(-len(queries) // len(addresses))

    async def one(client: httpx.AsyncClient, i: int) -> dict[str, Any]:
        part = slice(i * share, (i + 1) * share)
        for attempt in range(5):
            try:
                body = {"query": queries[part], "prompts": prompts[part], "labels": labels[part]}
                found = await client.post(addresses[i].strip(), json=body)
                found.raise_for_status()
                return found.json()  # type: ignore[no-any-return]
            except (httpx.HTTPError, ValueError):
                if attempt == 4:
                    raise
                await asyncio.sleep(0.2)
        raise AssertionError

    async with httpx.AsyncClient(timeout=180) as client:
        return await asyncio.gather(*(one(client, i) for i in range(len(addresses))))


def test_openrlhf_one_query_a_request(served: Serves, scorers: dict[str, Scorer]) -> None:
    url = f"{served.url}/get_reward"
    first, second = asyncio.run(fetch(f"{url},{url}", [query("7")], [PROMPT], [None]))
    assert second == {"rewards": [], "scores": [], "extra_logs": {"group_size": []}}
    reward = next(scorers["bt"].rewards([ranked("Name a prime", ["7"])]))[0]
    assert first["rewards"] == [pytest.approx(reward, abs=1e-4)]
    assert first["scores"] == [pytest.approx(1 / (1 + np.exp(-reward)), abs=1e-4)]
    assert set(first) == {"rewards", "scores", "extra_logs"}


@pytest.mark.parametrize("body", [
    {"query": [query("7"), query("9")]},  # before 2025-02
    {"query": [query("7"), query("9")], "prompts": [PROMPT, PROMPT]},
    {"query": [query("7"), query("9")], "prompts": [PROMPT, PROMPT], "labels": [None, {"any": ["json", 1.5]}], "new": True},
    {"query": [query("7"), query("9")], "prompts": [], "labels": []},
])  # fmt: skip
def test_openrlhf_all_versions(body: dict[str, Any], served: Serves, scorers: dict[str, Scorer]) -> None:
    found = served.post("/get_reward", **body, model="gpm")
    s = scorers["gpm"].table("Name a prime", ["7", "9"])[0, 1]
    np.testing.assert_allclose(found["rewards"], [s, -s], atol=1e-4)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp([-s, s])), atol=1e-4)
    assert found["extra_logs"] == {"group_size": [2.0, 2.0]}


def test_openrlhf_retries_until_the_model_is_loaded(served: Serves, monkeypatch: pytest.MonkeyPatch) -> None:
    models, calls = served.models, []
    inner = type(models).__call__

    def late(self: Any, name: str | None) -> Any:
        calls.append(name)
        if len(calls) < 3:
            raise type(error)(503, "the model is being loaded")
        return inner(self, name)

    from prefrep.server.refusals import Refusal

    error = Refusal(503, "")
    monkeypatch.setattr(type(models), "__call__", late)
    (found,) = asyncio.run(fetch(f"{served.url}/get_reward", [query("7")], [PROMPT], [None]))
    assert len(calls) == 3 and len(found["rewards"]) == 1


def test_openrlhf_queries_that_cannot_be_read(served: Serves) -> None:
    assert "query[0]: it does not begin with its prompt" in served.refused("/get_reward", 422, query=["7"], prompts=["Name a prime"])
    assert "send prompts too" in served.refused("/get_reward", 422, query=["7"])
    assert "prompts: one for each of the 2 queries" in served.refused("/get_reward", 422, query=["7", "8"], prompts=["a"])


def test_openrlhf_rendered(folders: Any, scorers: dict[str, Scorer]) -> None:
    render = scorers["bt"]._encoder._render
    record = ranked("Name a prime", ["7"])
    prompt, whole = render.prompt(record.prompt).text, render.single(record.prompt, record.responses[0]).text
    with serving({"bt": folders["bt"]}, rendered=True) as it:
        found = it.post("/get_reward", query=[whole], prompts=[prompt])
        assert found["rewards"] == [pytest.approx(next(scorers["bt"].rewards([record]))[0], abs=1e-4)]
        assert it.post("/get_reward", query=[whole])["rewards"] == [pytest.approx(found["rewards"][0], abs=1e-4)]
        assert "does not begin with prompts[0]" in it.refused("/get_reward", 422, query=[whole], prompts=["x"])


def test_rerank_of_jina_cohere_vllm(served: Serves, scorers: dict[str, Scorer]) -> None:
    documents: list[Any] = ["7", {"text": "9"}, "I would rather not"]
    table = scorers["gpm"].table("Name a prime", ["7", "9", "I would rather not"])
    means = table.sum(1) / 2
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        found = served.post(path, model="gpm", query="Name a prime", documents=documents, top_n=2, return_documents=True)
        order = np.argsort(-means)[:2]
        assert [each["index"] for each in found["results"]] == order.tolist()
        np.testing.assert_allclose([each["relevance_score"] for each in found["results"]], 1 / (1 + np.exp(-means[order])), atol=1e-4)
        assert [each["document"]["text"] for each in found["results"]] == [["7", "9", "I would rather not"][i] for i in order]


def test_rerank_of_tei(served: Serves, scorers: dict[str, Scorer]) -> None:
    found = served.post("/rerank", query="Name a prime", texts=["7", "9"], raw_scores=False)
    rewards = next(scorers["bt"].rewards([ranked("Name a prime", ["7", "9"])]))
    assert [each["index"] for each in found] == np.argsort(-rewards).tolist()
    assert found[0]["score"] == pytest.approx(1 / (1 + np.exp(-rewards.max())), abs=1e-4)
    assert "documents: they are missing" in served.refused("/rerank", 422, query="Name a prime")
