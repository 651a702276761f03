"""Judges that write wherever a judge or a model stands: rounds of GPO that are killed, evaluations, signals."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import program
from integration.test_gpo import dying, fit, lines
from judges.talking import Answer, asleep, failed, said, talking

from prefrep.evaluation.summary import ranked_results
from prefrep.judges.writing.judgments import VerdictError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "tiny" / "gpo-judge.yaml"
LOCAL = "GenerativeJudge model=bundled:tiny-llama style=letter constraint=choice"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of a test stay in it."""
    monkeypatch.setattr("prefrep.judges.writing.kept.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "verdicts"


def questions(kept: Path) -> list[str]:
    (file,) = kept.glob("*.sqlite")
    with sqlite3.connect(file) as base:
        return [row[0] for row in base.execute("SELECT key FROM replies ORDER BY key")]


def test_rounds_with_a_judge_that_writes_are_killed_and_go_on(tmp_path: Path, kept: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Say {name}\n" for name in ("one", "two and three", "four")))
    fit(prompts, tmp_path / "whole", config=CONFIG)
    whole = questions(kept)
    assert len(whole) > 20
    kept.rename(kept.with_name("before"))

    def go() -> None:
        from prefrep.judges.writing.kept import Kept

        Kept.keep = dying(Kept.keep, 15)  # type: ignore[method-assign]
        fit(prompts, tmp_path / "cut", config=CONFIG)

    process = multiprocessing.get_context("fork").Process(target=go)
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    assert 0 < len(questions(kept)) < len(whole)
    fit(prompts, tmp_path / "cut", config=CONFIG)
    assert questions(kept) == whole
    for number in (0, 1):
        assert lines(tmp_path / "cut", number, "labels") == lines(tmp_path / "whole", number, "labels")


def shown(body: dict[str, Any], *words: str) -> list[str]:
    """Words in the order in which a question shows them."""
    text = body["messages"][-1]["content"]
    return sorted((word for word in words if word in text), key=text.index)


def rewardbench(tmp_path: Path, count: int) -> Path:
    file = tmp_path / "rb.jsonl"
    rows = [{"id": n, "subset": "llmbar-natural", "prompt": f"Question {n}?", "chosen": "good", "rejected": "bad"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_rewardbench_counts_as_its_generative_runner(tmp_path: Path) -> None:
    """One order, drawn from the content; without a verdict a pair counts 0.5, and so many of them end with an error."""

    def script(body: dict[str, Any], before: int) -> Answer:
        number = int(body["messages"][-1]["content"].split("Question ")[1].split("?")[0])
        right = "AB"[shown(body, "good", "bad").index("good")]
        return said("hm" if number < 2 else f"[[{right}]]" if number < 8 else f"[[{'AB'.replace(right, '')}]]")

    with talking(script) as talk:
        judge = f"GenerativeJudge model=m url={talk.url} orders=one"
        args = ["--data", str(rewardbench(tmp_path, 10)), "--model", judge, "--bootstrap", "50"]
        with pytest.raises(VerdictError, match=r"2 of 10 questions have no verdict \(2 no marker\), more than 5%.*2 x 'hm'"):
            program("eval", "rewardbench")([*args, "--out", str(tmp_path / "out")])
        assert len(talk.bodies) == 10
        assert {shown(body, "good", "bad")[0] for body in talk.bodies} == {"good", "bad"}
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["subsets"]["llmbar-natural"]["score"] == pytest.approx((2 * 0.5 + 6) / 10)
    assert any("2 pairs have no verdict, which counts 0.5" in note for note in found["notes"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [row["score"] is None for row in rows] == [True] * 2 + [False] * 8
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [each["why"] for each in verdicts] == ["no marker"] * 2 + [""] * 8 and verdicts[0]["replies"] == ["hm"]


def test_rewardbench2_counts_as_its_generative_runner(tmp_path: Path) -> None:
    """Best of four in one drawn order, 0.25 without a verdict; Ties by ratings, with -1 for a rating that cannot be read."""
    ties = {"prompt": "A colour", "subset": "Ties", "models": [], "additional_metadata": {}, "total_completions": 3}
    four = {"subset": "Math", "models": [], "additional_metadata": {}, "num_correct": 1, "num_incorrect": 3, "total_completions": 4}
    rows = [
        {"id": str(n), "prompt": f"Question {n}?", "chosen": ["good"], "rejected": ["bad1", "bad2", "bad3"], **four} for n in range(3)
    ] + [
        {"id": "ref:0", "chosen": ["red"], "rejected": ["dog", "cat"], "num_correct": 1, "num_incorrect": 2, **ties},
        {"id": "tied:0", "chosen": ["red", "blue"], "rejected": ["dog"], "num_correct": 2, "num_incorrect": 1, **ties},
    ]  # fmt: skip
    (tmp_path / "rb2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ratings = {"red": "[[9]]", "blue": "[[8]]", "dog": "[[3]]", "cat": "no idea"}

    def script(body: dict[str, Any], before: int) -> Answer:
        text = body["messages"][-1]["content"]
        if "Question" not in text:
            return said(ratings[shown(body, *ratings)[0]])
        number = int(text.split("Question ")[1].split("?")[0])
        order = shown(body, "good", "bad1", "bad2", "bad3")
        return said(["I cannot say", f"[[{'ABCD'[order.index('good')]}]]", f"[[{'ABCD'[order.index('bad2')]}]]"][number])

    with talking(script) as talk:
        judge = f"GenerativeJudge model=m url={talk.url} orders=one form=best-of max_no_verdict=1"
        program("eval", "rewardbench2")(
            ["--data", str(tmp_path / "rb2.jsonl"), "--model", judge, "--bootstrap", "50", "--out", str(tmp_path / "out")]
        )
        assert len(talk.bodies) == 3 + 4  # the two prompts are equal texts, so red and dog are rated once
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["subsets"]["Math"]["score"] == pytest.approx((0.25 + 1 + 0) / 3)
    from prefrep.evaluation.rows import RankedScore

    same = [RankedScore("ref:0", "Ties", 1, (9.0, 3.0, -1.0)), RankedScore("tied:0", "Ties", 2, (9.0, 8.0, 3.0))]
    assert found["subsets"]["Ties"]["score"] == pytest.approx(ranked_results(same)["subsets"]["Ties"]["score"])


def test_other_evaluations_take_a_judge_that_writes(tmp_path: Path) -> None:
    data = rewardbench(tmp_path, 6)
    recipe = tmp_path / "judge.yaml"
    recipe.write_text("class: GenerativeJudge\nmodel: bundled:tiny-llama\nstyle: letter\nconstraint: choice\n")
    program("eval", "pairs")(["--data", str(data), "--model", str(recipe), "--out", str(tmp_path / "pairs"), "--bootstrap", "50"])
    one = json.loads((tmp_path / "pairs" / "results.json").read_text())
    program("eval", "judge")(["--data", str(data), "--model", LOCAL, "--out", str(tmp_path / "audit"), "--draws", "5"])
    other = json.loads((tmp_path / "audit" / "results.json").read_text())["judges"]["bundled:tiny-llama"]
    assert one["overall"]["score"] == other["labels"]["accuracy"]["score"]
    for name, word in (("a", "good"), ("b", "bad")):
        rows = [{"instruction": f"Question {n}?", "output": word, "generator": name} for n in range(6)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    sides = ["--model", str(tmp_path / "a.json"), "--against", str(tmp_path / "b.json"), "--judge", LOCAL]
    program("eval", "winrate")([*sides, "--out", str(tmp_path / "win"), "--bootstrap", "50"])
    won = json.loads((tmp_path / "win" / "results.json").read_text())
    assert won["wins"] / 6 == one["overall"]["score"] and won["no_verdict"] == 0
    program("eval", "rewardbench")(
        ["--data", str(data), "--model", LOCAL, "--also-swap", "--out", str(tmp_path / "swap"), "--bootstrap", "50"]
    )
    assert json.loads((tmp_path / "swap" / "results.json").read_text())["swap"]["orders"] == "single"


def test_a_server_that_fails_half_the_time_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.002)
    found = []
    for faults in (False, True):

        def script(body: dict[str, Any], before: int, faults: bool = faults) -> Answer:
            if faults and before < 1:
                return failed(500)
            return said(f"[[{'AB'[shown(body, 'good', 'bad').index('good')]}]]")

        with talking(script) as talk:
            judge = f"GenerativeJudge model=m url={talk.url}"
            out = tmp_path / str(faults)
            program("eval", "pairs")(["--data", str(rewardbench(tmp_path, 8)), "--model", judge, "--out", str(out), "--bootstrap", "50"])
            assert set(talk.answered.values()) == {1} and len(talk.answered) == 16
            found.append((out / "scores.jsonl").read_text())
    assert found[0] == found[1]


@pytest.mark.slow
def test_signals_and_kills_lose_no_answer_that_was_paid_for(tmp_path: Path) -> None:
    """A run is stopped again and again: after SIGTERM nothing is asked twice, after SIGKILL at most what was in flight."""

    def script(body: dict[str, Any], before: int) -> Answer:
        return asleep(0.05, said(f"[[{'AB'[shown(body, 'good', 'bad').index('good')]}]]"))

    data, together = rewardbench(tmp_path, 40), 2
    with talking(script) as talk:
        judge = f"GenerativeJudge model=m url={talk.url} concurrency={together}"
        command = [sys.executable, "-m", "prefrep", "eval", "pairs", "--data", str(data), "--model", judge, "--out", str(tmp_path / "out")]
        environment = {**os.environ, "PREFREP_CACHE": str(tmp_path / "own"), "PYTHONPATH": str(ROOT)}
        kills = 0
        for number, sent in enumerate([signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]):
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen([*command, "--bootstrap", "50"], env=environment, **silent)  # type: ignore[call-overload]
            deadline = time.monotonic() + 120
            while sum(talk.answered.values()) < 10 * (number + 1) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(sent)
            code = process.wait(timeout=120)
            assert code == (-sent if sent is signal.SIGKILL else 128 + sent)
            kills += sent is signal.SIGKILL
            time.sleep(0.2)  # the server ends what was in flight
        assert subprocess.run([*command, "--bootstrap", "50"], env=environment, stdout=subprocess.DEVNULL, check=True).returncode == 0
        assert len(talk.answered) == 80
        assert sum(talk.answered.values()) <= 80 + kills * together
    assert json.loads((tmp_path / "out" / "results.json").read_text())["overall"]["score"] == 1.0
