"""Evaluations of a model with several objectives: a table of each, from one reading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
from conftest import program

from prefrep.errors import UsageError
from prefrep.evaluation.objectives import scores_by_objective
from prefrep.judges.named import open_model
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, Message
from prefrep.scoring import Scorer
from prefrep.scoring.lines import Asks, lines
from prefrep.scoring.loading import Scoring

evaluate, export = program("eval"), program("export")
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
    written = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    pairs = [
        Comparison(*((Message(r, row[k]),) for r, k in (("user", "prompt"), *(("assistant", k) for k in ("chosen", "rejected")))))
        for row in rows
    ]
    for name in ("", *NAMES):
        read.clear()
        scores = list(Scorer.from_pretrained(place, objective=name).compare(pairs))
        assert len(read) == calls, "one reading for all objectives"
        assert [line["objectives"][name] if name else line["score"] for line in written] == pytest.approx(scores, abs=1e-4)
        right = [score > 0 for score in scores]
        results = found["objectives"][name] if name else found
        by_subset = {subset: value["score"] for subset, value in results["subsets"].items()}
        assert by_subset == pytest.approx({"hep-go": sum(right[::2]) / 6, "alpacaeval-easy": sum(right[1::2]) / 6})
    if what == "rewardbench":
        assert evaluate([what, "--scores", str(out / "scores.jsonl"), "--out", str(tmp_path / "again"), "--bootstrap", "20"]) == 0
        assert json.loads((tmp_path / "again" / "results.json").read_text())["objectives"] == found["objectives"]


def test_the_prompt_names_what_it_named_in_training(tmp_path: Path) -> None:
    """A model whose prompts name a column is asked with it, also for its objectives."""
    read = Scorer.from_pretrained(families.write(tmp_path / "rm", "armorm"), "cpu").model
    read.encode = replace(read.encode, context="group")
    scorer = Scorer(read)
    sides = [(Message("assistant", answer),) for answer in ("7 it is", "9, I would say")]
    pairs = [Comparison((Message("user", "Name a prime"),), *sides, group=group) for group in ("", "r/science", "r/jokes")]
    expected = list(scorer.compare(pairs))
    assert len({round(each, 4) for each in expected}) == 3
    assert [score for score, *_ in scores_by_objective(scorer, pairs, NAMES, "pairs")] == pytest.approx(expected, abs=1e-5)
    assert [line["score"] for line in lines(scorer, iter(pairs), False, Asks())] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("ultrarm", {"orders": "first"}, "--orders first: .* reads each answer alone"),
        ("ultrarm", {"implicit": "sum", "orders": "first"}, "--orders first: for preference models"),
        ("armorm", {"objective": "honest"}, "is an exported folder, whose head has its objective already"),
    ],
)
def test_options_that_would_change_nothing_are_refused(kind: str, options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", kind)
    if kind == "armorm":
        assert export(["--from", kind, "--model", str(place), "--out", str(tmp_path / "out")]) == 0
        place = tmp_path / "out"
    with pytest.raises(UsageError, match=problem):
        Scoring(device="cpu", **options).here(str(place))


def test_a_judges_recipe_takes_none_of_them() -> None:
    with pytest.raises(UsageError, match="--orders first: the recipe of a judge says how it is asked"):
        open_model("GenerativeJudge model=m", Scoring(orders="first"))
