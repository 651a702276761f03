"""Runs that are killed: what a judge was asked and answered is not asked again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from judges.talking import Answer, asleep, pairs, said, shown_first, talking

from prefrep.evaluation import pairs as evaluation
from prefrep.evaluation.verdicts import keep_verdicts
from prefrep.judges import GenerativeJudge

PAIRS, TOGETHER, KILLS = 120, 3, 20


def texts(bodies: list[dict[str, Any]]) -> list[str]:
    return [body["messages"][-1]["content"] for body in bodies]


def kept_in(cache: Path) -> set[str]:
    """Questions whose answers a cache holds."""
    found = set()
    for file in (cache / "verdicts").glob("*.sqlite"):
        with sqlite3.connect(file) as base:
            if base.execute("SELECT 1 FROM sqlite_master WHERE name = 'replies'").fetchone():
                found |= set(texts([json.loads(row[0]) for row in base.execute("SELECT question FROM replies")]))
    return found


def judged(url: str, out: Path, cache: Path) -> None:
    """Write scores and verdicts, as evaluations do; runs in a process of its own."""
    os.environ["PREFREP_CACHE"] = str(cache)
    judge, some = GenerativeJudge("m", url, concurrency=TOGETHER), pairs(PAIRS)
    evaluation.score(judge, some, out, {"path": "m", **judge.describe()}, False)
    keep_verdicts(judge, some, out)


@pytest.mark.slow
def test_twenty_kills_ask_nothing_twice_that_was_received(tmp_path: Path) -> None:
    """What is kept is never asked again, at most what is in flight is lost, and the results are those of an undisturbed run."""

    def script(body: dict[str, Any], before: int) -> Answer:
        if "number 7" in body["messages"][-1]["content"]:
            return asleep(0.02, said("hm"))
        return asleep(0.02, said("[[A]]" if shown_first(body) == "good" else "[[B]]"))

    context = multiprocessing.get_context("forkserver")  # imports once; and the process that is forked has no threads
    here = ["prefrep.judges.generative", "prefrep.evaluation.pairs", "prefrep.evaluation.verdicts"]
    context.set_forkserver_preload(["lightning.pytorch", "pytest", "openai", *here])
    draw, lost = random.Random(0), 0
    with talking(script) as talk:

        def run(name: str) -> Any:
            process = context.Process(target=judged, args=(talk.url, tmp_path / name, tmp_path / f"{name}-cache"))
            process.start()
            return process

        whole = run("whole")
        whole.join(300)
        assert whole.exitcode == 0 and len(talk.bodies) == len(set(texts(talk.bodies))) == 2 * PAIRS
        del talk.bodies[:]
        for _ in range(KILLS):
            kept, begun = kept_in(tmp_path / "cut-cache"), len(talk.bodies)
            process, enough, deadline = run("cut"), begun + draw.randint(1, 2 * PAIRS // KILLS), time.monotonic() + 300
            while len(talk.bodies) < enough and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.03))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            asked = texts(talk.bodies[begun:])
            assert asked and not set(asked) & kept and len(asked) == len(set(asked))
            gone = set(asked) - kept_in(tmp_path / "cut-cache")
            assert len(gone) <= TOGETHER
            lost += len(gone)
        rest = run("cut")
        rest.join(300)
        assert rest.exitcode == 0 and len(talk.bodies) == 2 * PAIRS + lost
        print(f"{KILLS} kills: {len(talk.bodies)} requests for {2 * PAIRS} questions; {lost} had been in flight")
    for name in ("scores.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
