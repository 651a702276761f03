"""Evaluations of a model with several objectives: a table of each, from one reading."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
from conftest import program

from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, Message
from prefrep.scoring import Scorer

evaluate = program("eval")
NAMES = ("helpful", "honest", "short")


@pytest.mark.parametrize("what", ["pairs", "rewardbench"])
def test_each_objective_has_the_results_of_a_model_with_it_alone(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, data, out = families.write(tmp_path / "rm", "armorm"), tmp_path / "d.jsonl", tmp_path / "out"
    rows = [
        {"id": str(i), "subset": ("hep-go", "alpacaeval-easy")[i % 2], "prompt": f"{i}?", "chosen": f"{i * 7} it is", "rejected": f"no {i}"}
        for i in range(12)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read: list[int] = []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, *given: read.append(1) or forward(self, *given))  # type: ignore[func-returns-value]
    assert evaluate([what, "--model", str(place), "--data", str(data), "--out", str(out), "--bootstrap", "20"]) == 0
    calls = len(read)
    found, printed = json.loads((out / "results.json").read_text()), capsys.readouterr().out
    assert tuple(found["objectives"]) == NAMES and all(f"objective {name}\n" in printed for name in NAMES)
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    pairs = [
        Comparison(*((Message(r, row[k]),) for r, k in (("user", "prompt"), *(("assistant", k) for k in ("chosen", "rejected")))))
        for row in rows
    ]
    for name in ("", *NAMES):
        read.clear()
        scores = list(Scorer.from_pretrained(place, objective=name).compare(pairs))
        assert len(read) == calls, "one reading for all objectives"
        assert [line["objectives"][name] if name else line["score"] for line in lines] == pytest.approx(scores, abs=1e-4)
        right = [score > 0 for score in scores]
        results = found["objectives"][name] if name else found
        by_subset = {subset: value["score"] for subset, value in results["subsets"].items()}
        assert by_subset == pytest.approx({"hep-go": sum(right[::2]) / 6, "alpacaeval-easy": sum(right[1::2]) / 6})
    if what == "rewardbench":
        assert evaluate([what, "--scores", str(out / "scores.jsonl"), "--out", str(tmp_path / "again"), "--bootstrap", "20"]) == 0
        assert json.loads((tmp_path / "again" / "results.json").read_text())["objectives"] == found["objectives"]
