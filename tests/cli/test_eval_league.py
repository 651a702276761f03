"""A league from run folders, answer files and language models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import program
from scipy.special import expit
from serving import export

from prefrep.errors import ConfigError, DataError, UsageError
from prefrep.evaluation.entrants import enter, parse
from prefrep.judges import circular
from prefrep.reports.found import find
from prefrep.reports.page import build, html
from prefrep.scoring import Scorer

main = program("eval")
PROMPTS = ("Why?", "Who?", "How?")
JUDGE = ["--judge", "prefrep.judges.circular", "--bootstrap", "50"]


def answer(count: int) -> str:
    return " ".join(["word"] * count)


def a_run(folder: Path, lengths: dict[int, list[list[int]]], kl: float) -> Path:
    """A run whose held-out answers have given numbers of words, by round, prompt and answer."""
    for number, rows in lengths.items():
        place = folder / "rounds" / str(number)
        place.mkdir(parents=True)
        lines = [{"row": i, "prompt": PROMPTS[i], "responses": [answer(n) for n in row]} for i, row in enumerate(rows)]
        (place / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (place / "metrics.json").write_text(json.dumps({"held_out_kl_initial": kl * number}))
    return folder


def written(path: Path, counts: tuple[int, ...]) -> str:
    path.write_text(json.dumps([{"instruction": q, "output": answer(n), "generator": "x"} for q, n in zip(PROMPTS, counts, strict=False)]))
    return str(path)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    first = a_run(tmp_path / "a", {0: [[3, 4], [5, 3], [4, 4]], 1: [[1, 1]] * 3, 2: [[14, 16], [15, 17], [16, 14]]}, kl=1.5)
    return first, a_run(tmp_path / "b", {0: [[3, 3]] * 3, 1: [[16, 15], [14, 15], [17, 15]]}, kl=2.0)


def test_a_league_that_runs_in_a_circle(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Short answers, two runs of middle ones that are one policy, long ones from a file: each beats the one before it."""
    first, second = runs
    long = written(tmp_path / "long.json", (27, 28, 29))
    policies = [f"start={first}/rounds/0", f"middle={first}", f"middle={second}", f"long={long}"]
    out = tmp_path / "out"
    main(["league", *(part for each in policies for part in ("--policy", each)), *JUDGE, "--out", str(out)])
    found = json.loads((out / "results.json").read_text())
    assert found["policies"] == ["start", "middle", "long"] and found["answers"] == {"start": 2, "middle": 4, "long": 1} and found["n"] == 3
    starts, middles = [[3, 4], [5, 3], [4, 4]], [[14, 16, 16, 15], [15, 17, 14, 15], [16, 14, 17, 15]]
    wins = [np.mean([expit(circular("", answer(m), answer(s))) for m in ms for s in ss]) for ms, ss in zip(middles, starts, strict=True)]
    assert found["win"]["middle"]["start"]["score"] == pytest.approx(np.mean(wins), abs=1e-6)
    assert found["win"]["start"]["middle"]["score"] == pytest.approx(1 - np.mean(wins), abs=1e-6)
    assert found["mean"]["start"]["score"] == pytest.approx(np.mean([found["win"]["start"][b]["score"] for b in ("middle", "long")]))
    assert found["kl"] == {"start": 0.0, "middle": pytest.approx((3.0 + 2.0) / 2), "long": None}
    (cycle,) = found["cycles"]
    assert cycle["policies"] == ["start", "long", "middle"] and cycle["each_beyond_chance"]
    assert sum(each["score"] for each in found["lottery"].values()) == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "1 of 1 triples are cycles, 1 of them beyond chance" in printed and "start > long > middle > start" in printed
    assert "start &gt; long &gt; middle &gt; start" in html(build(find([out])))


def test_conversations_with_one_last_turn_are_apart(tmp_path: Path) -> None:
    """Both end in "Why?"; each is judged by itself, with its turns."""
    for name, lengths in (("a", (3, 15)), ("b", (15, 3))):
        run = a_run(tmp_path / name, {0: [[lengths[0]], [lengths[1]]]}, kl=0.0)
        turns = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Oh."}]
        lines = [{"row": i, "prompt": "Why?", "responses": [answer(n)]} | ({"before": turns} if i else {}) for i, n in enumerate(lengths)]
        (run / "rounds" / "0" / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entrants = [enter(name, [str(tmp_path / name)], None, lambda *_: tmp_path) for name in ("a", "b")]
    assert [[message.content for message in prompt] for prompt in entrants[0].answers] == [["Why?"], ["Hm?", "Oh.", "Why?"]]
    main(["league", "--policy", f"a={tmp_path / 'a'}", "--policy", f"b={tmp_path / 'b'}", *JUDGE, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["n"] == 2 and found["answers"] == {"a": 1, "b": 1} and found["win"]["a"]["b"]["score"] == pytest.approx(0.5)


def test_an_interrupted_league_goes_on(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    call = ["league", "--policy", f"a={first}", "--policy", f"b={second}", *JUDGE, "--out"]
    main([*call, str(tmp_path / "whole")])
    (tmp_path / "cut").mkdir()
    for name in ("tables.jsonl", "scores.meta.json"):
        (tmp_path / "cut" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    lines = (tmp_path / "cut" / "tables.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / "tables.jsonl").write_bytes(lines[0] + lines[1][:20])
    main([*call, str(tmp_path / "cut")])
    for name in ("tables.jsonl", "results.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(ConfigError, match="scores of another data"):
        main(["league", "--policy", f"a={first}/rounds/1", "--policy", f"b={second}", *JUDGE, "--out", str(tmp_path / "cut")])


def test_language_models_answer(tmp_path: Path) -> None:
    """Judged by a model: the table is that of its log-odds between the answers."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"instruction": q}) + "\n" for q in PROMPTS[:2]))
    policies = ["--policy", "llama=bundled:tiny-llama", "--policy", "qwen=bundled:tiny-qwen2"]
    judge = export(tmp_path, "gpm")
    options = ["--data", str(prompts), "--max-new-tokens", "8", "--judge", str(judge), "--out", str(tmp_path / "out"), "--bootstrap", "20"]
    main(["league", *policies, *options])
    a, b = (json.loads((tmp_path / "out" / f"answers-{name}" / "model_outputs.json").read_text()) for name in ("llama", "qwen"))
    scorer = Scorer.from_pretrained(judge)
    wins = [expit(scorer.table(x["instruction"], [x["output"], y["output"]])[0, 1]) for x, y in zip(a, b, strict=True)]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["win"]["llama"]["qwen"]["score"] == pytest.approx(np.mean(wins), abs=1e-4)
    assert found["triples"]["n"] == 0 and found["kl"] == {"llama": None, "qwen": None}


def test_names_of_policies() -> None:
    given = ["runs/gpo/export", "b=x.json", "b=y.json", "runs/lr=1/run", "owner/model"]
    assert parse(given) == {"gpo": ["runs/gpo/export"], "b": ["x.json", "y.json"], "run": ["runs/lr=1/run"], "model": ["owner/model"]}


@pytest.mark.parametrize(
    ("policies", "error", "says"),
    [
        (["a={run}"], UsageError, "two policies or more, each as --policy NAME=PATH; got a"),
        (
            ["a={run}", "b=bundled:tiny-llama"],
            UsageError,
            "bundled:tiny-llama is neither an answer file nor a run; if it is a language",
        ),
        (["a={run}", "b={other}"], DataError, "a, b have no prompt in common"),
        (["a={run}", "b={empty}"], DataError, "holds no complete answer"),
        (["a={run}", "b={run}/nothing.json"], DataError, "no such file"),
    ],
)
def test_misuse(policies: list[str], error: type[Exception], says: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    other, empty = tmp_path / "other.json", tmp_path / "empty"
    other.write_text(json.dumps([{"instruction": "Elsewhere?", "output": "Yes."}]))
    empty.mkdir()
    (empty / "held_out.jsonl").write_text("")
    given = [each.format(run=runs[0], other=other, empty=empty) for each in policies]
    with pytest.raises(error, match=says):
        main(["league", *(part for each in given for part in ("--policy", each)), *JUDGE, "--out", str(tmp_path / "out")])
