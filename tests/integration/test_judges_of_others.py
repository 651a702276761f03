"""Post-training against other people's models: a round with PairRM, one with an implicit reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import yaml
from conftest import program

from prefrep.judges import ImplicitJudge, Judge, ModelJudge
from prefrep.records import Message, RankedResponses

TINY = Path(__file__).parents[2] / "configs" / "tiny" / "gpo.yaml"


@pytest.mark.parametrize("kind", ["pairrm", "implicit"])
def test_a_round_of_gpo(kind: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say one\nSay two and three\nFour\n")
    judge: Judge
    if kind == "pairrm":
        place = str(families.write(tmp_path / "rm", "pairrm"))
        named, judge = {"class_path": "ModelJudge", "init_args": {"path": place}}, ModelJudge(place)
    else:
        options: dict[str, Any] = {"path": "bundled:tiny-llama", "form": "average", "beta": 0.5}
        named, judge = {"class_path": "ImplicitJudge", "init_args": options}, ImplicitJudge(**options)
    recipe: dict[str, Any] = yaml.safe_load(TINY.read_text())
    callbacks = [each for each in recipe["trainer"]["callbacks"] if not each["class_path"].endswith(("HeldOut", "LearningRateMonitor"))]
    for each in callbacks:
        if "judge" in each.get("init_args", {}):
            each["init_args"]["judge"] = named
    recipe["trainer"] |= {"callbacks": callbacks, "max_epochs": 1, "logger": False, "enable_progress_bar": False}
    config = tmp_path / "gpo.yaml"
    config.write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    assert program("fit")(["--config", str(config), "--data.train", str(prompts), "--trainer.default_root_dir", str(out)]) == 0
    rounds = out / "rounds" / "0"
    labels = [json.loads(line) for line in (rounds / "labels.jsonl").read_text().splitlines()]
    table = np.array(labels[0]["table"])
    assert np.abs(table).max() > 0 and np.allclose(table, -table.T, atol=1e-6)
    turns = tuple(Message(**turn) for turn in labels[0]["prompt"])
    record = RankedResponses(turns, tuple((Message("assistant", answer),) for answer in labels[0]["responses"]))
    (verdict,) = judge.judge([record])
    assert verdict.table == pytest.approx(table, abs=1e-4)
