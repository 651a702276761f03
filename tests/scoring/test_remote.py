"""A scorer elsewhere is a scorer: the same answers, the same files, and patience with servers that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import pytest
from conftest import program
from data.chat_templates import QWEN3
from serving import Serves, export, random_records, serving

from prefrep.errors import ConfigError, RecordError, UsageError
from prefrep.judges import ModelJudge, comparer
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import BlockScorer, RemoteScorer, Scorer
from prefrep.scoring.loading import Scoring, fingerprint_of
from prefrep.scoring.workers import open_scorer
from prefrep.web import RefusedError, ServerError

PROMPT, RESPONSES = "Name a prime", ["7", "9", "I would rather not"]


@pytest.mark.parametrize("name", ["bt", "gpm", "hybrid", "pair"])
def test_answers_are_those_of_scorer(name: str, served: Serves, scorers: dict[str, Scorer]) -> None:
    remote, local = RemoteScorer(f"{served.url}/#{name}"), scorers[name]
    records = random_records(11, 40, 6)
    for a, b in zip(remote.tables(iter(records)), local.tables(records), strict=True):
        assert a.dtype == np.float32 and a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-4)
    pairs = [Comparison(r.prompt, r.responses[0], r.responses[-1]) for r in records]
    np.testing.assert_allclose(list(remote.compare(pairs)), list(local.compare(pairs)), atol=1e-4)
    assert remote.rank(PROMPT, RESPONSES) == local.rank(PROMPT, RESPONSES)
    assert (remote.pairwise, remote.chats, remote.encode) == (local.pairwise, local.chats, local.encode)
    described = remote.describe()
    assert described["recipe"] == json.loads(json.dumps(local.describe()["recipe"])) and described["encoded"]["records"] == 81
    if name == "bt":
        for a, b in zip(remote.rewards(records), local.rewards(records), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    else:
        with pytest.raises(ConfigError, match="gives no reward"):
            remote.rewards(records)


def test_rewards_of_pairs(served: Serves, scorers: dict[str, Scorer]) -> None:
    pairs = [Comparison(r.prompt, r.responses[0], r.responses[-1]) for r in random_records(14, 8, 2)]
    found = list(RemoteScorer(f"{served.url}#bt").compare_rewards(pairs))
    np.testing.assert_allclose(found, list(scorers["bt"].compare_rewards(pairs)), atol=1e-4)
    with pytest.raises(ConfigError, match="gives no reward"):
        list(RemoteScorer(f"{served.url}#gpm").compare_rewards(pairs))


def test_tools_and_thoughts_travel(tmp_path: Path) -> None:
    folder = export(tmp_path, "gpm", template=QWEN3)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    calls = (Message("assistant", "", {"tool_calls": [call]}),)
    thinks = (Message("assistant", "3", {"reasoning_content": "1 + 2"}),)
    prompt, tools = (Message("user", "What is 1 + 2?"),), {"tools": [{"type": "function", "function": {"name": "add"}}]}
    records = [
        RankedResponses(prompt, (calls, thinks), template_kwargs=tools),
        RankedResponses(prompt, (thinks, (Message("assistant", "3"),))),
        RankedResponses(prompt, (thinks, (Message("assistant", "4"),)), template_kwargs=tools),
        RankedResponses(prompt, (thinks, (Message("assistant", "4"),))),
    ]
    expected = list(Scorer.from_pretrained(folder).tables(records))
    assert all(abs(table[0, 1]) > 1e-3 for table in expected) and abs(expected[2] - expected[3]).max() > 1e-3, "all of it is read"
    with serving({"gpm": folder}) as it:
        remote = RemoteScorer(it.url)
        np.testing.assert_allclose(list(remote.tables(records)), expected, atol=1e-4)
        pairs = [Comparison(r.prompt, *r.responses, template_kwargs=r.template_kwargs) for r in records]
        np.testing.assert_allclose(list(remote.compare(pairs)), [table[0, 1] for table in expected], atol=1e-4)
        assert abs(remote.table(prompt, [thinks[0:1], "3"]) - expected[1]).max() < 1e-4
        asked = {"prompt": "What is 1 + 2?", "responses": ["3", "4"]}
        refused = it.refused("/v1/table", 422, records=[asked | {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}])
        assert refused.startswith("records[0]: 'chat_template_kwargs' sets 'chat_template'")
        assert "belong into each of the records" in it.refused("/v1/table", 422, records=[asked], **tools)


def test_blocks(served: Serves, folders: dict[str, Path]) -> None:
    records = random_records(12, 5, 2)
    remote, local = RemoteScorer(f"{served.url}#gpm", blocks=True), BlockScorer.from_pretrained(folders["gpm"])
    for a, b in zip(remote.tables(records), local.tables(records), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_reader_that_stops_early(served: Serves) -> None:
    stream = RemoteScorer(f"{served.url}#gpm").tables(record for record in random_records(13, 400, 3))
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_programs_take_a_url(served: Serves, folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"Name the number after {i}", "chosen": str(i + 1), "rejected": "No.", "subset": "s"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, model in (("local", str(folders["gpm"])), ("remote", f"{served.url}#gpm")):
        assert program("score")(["--model", model, "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / f"{name}.jsonl")]) == 0
        assert program("eval", "pairs")(["--model", model, "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / name)]) == 0
    scores = {name: [json.loads(line)["score"] for line in (tmp_path / f"{name}.jsonl").open()] for name in ("local", "remote")}
    np.testing.assert_allclose(scores["remote"], scores["local"], atol=1e-4)
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("local", "remote")}
    assert results["remote"]["overall"] == results["local"]["overall"]
    assert results["remote"]["model"]["fingerprint"] == results["local"]["model"]["fingerprint"] == fingerprint_of(f"{served.url}#gpm")
    for options in ({"dtype": "float32"}, {"orders": "first"}, {"objective": "x"}, {"implicit": "sum"}):
        with pytest.raises(UsageError, match="has loaded the model already"):
            open_scorer(served.url, Scoring(**options))  # type: ignore[arg-type]


def test_judges_take_a_url(served: Serves, folders: dict[str, Path]) -> None:
    records = random_records(14, 4, 2)
    for a, b in zip(ModelJudge(f"{served.url}#gpm").judge(records), ModelJudge(str(folders["gpm"])).judge(records), strict=True):
        np.testing.assert_allclose(a.table, b.table, atol=1e-4)
        assert a.blocks is not None and b.blocks is not None
        np.testing.assert_allclose(a.blocks, b.blocks, atol=1e-4)
    assert isinstance(comparer(f"{served.url}#bt"), RemoteScorer)
    assert ModelJudge(f"{served.url}#gpm").describe()["fingerprint"] == fingerprint_of(str(folders["gpm"]))


def test_a_bad_record_is_named_and_the_others_are_not_lost(folders: dict[str, Path]) -> None:
    with serving({"gpm": folders["gpm"]}, responses=5) as it:
        many = random_records(15, 3, 1, most=2)
        wrong = type(many[0])(many[0].prompt, many[0].responses * 6, source="data.jsonl:7")
        found: list[Any] = []
        with pytest.raises(RecordError, match=r"data\.jsonl:7: .*responses: \d+, and at most 5"):
            found.extend(RemoteScorer(it.url).tables([*many, wrong]))


def test_tokens_models_and_addresses(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens").write_text("right\n")
    with serving({"bt": folders["bt"]}, tokens=str(tmp_path / "tokens")) as it:
        with pytest.raises(RefusedError, match="send a bearer token.*set PREFREP_TOKEN"):
            RemoteScorer(it.url)
        assert RemoteScorer(it.url, token="right").table(PROMPT, RESPONSES).shape == (3, 3)
        monkeypatch.setenv("PREFREP_TOKEN", "right")
        with pytest.raises(ServerError, match="has no model 'other'; it has bt"):
            RemoteScorer(f"{it.url}#other")
    with pytest.raises(ServerError, match=r"no answer for 0\.3 s \(ConnectError.*is `prefrep serve` running there"):
        RemoteScorer(it.url, patience=0.3)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=f"{port}/.*: nothing listens there"):  # at once: nobody has answered there before
        RemoteScorer(f"http://127.0.0.1:{port}", patience=10**9)


def test_a_busy_server_is_asked_again(folders: dict[str, Path], scorers: dict[str, Scorer]) -> None:
    records = random_records(16, 60, 4, most=2)
    with serving({"gpm": folders["gpm"]}, queue=20) as it:
        counts: list[int] = []
        answers: list[Any] = [None, None]

        def client(i: int) -> None:
            answers[i] = list(RemoteScorer(it.url, connections=8).tables(records))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts.append(int(it.counted("requests_total", path="/v1/table", status="429")))
    for found in answers:
        for a, b in zip(found, scorers["gpm"].tables(records), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    assert counts[0] > 0


def test_the_client_needs_no_torch() -> None:
    code = "import sys; from prefrep.scoring import RemoteScorer; from prefrep.adapters import verl; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
