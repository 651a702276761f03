"""The quickstart on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import program

from prefrep.demo import quickstart
from prefrep.errors import ConfigError

main = program("quickstart")


def test_runs_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "bundled:tiny-gpt2", "--out", str(tmp_path), "--prompts", "8", "--held-out", "6", "--steps", "800"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    for kind in ("cyclic", "transitive"):
        assert set(results[kind]) == {"bt", "pairpm", "gpm_d2", "gpm_d4"}
        for entry in results[kind].values():
            low, high = entry["ci95"]
            assert 0 <= low <= entry["accuracy"] <= high <= 1 and entry["n"] > 5
    assert results["cyclic"]["bt"]["accuracy"] <= 2 / 3
    assert results["cyclic"]["gpm_d4"]["accuracy"] >= 0.99
    # The exported model, read again by the evaluation, decides and doubts as in training.
    arguments = ["--model", str(tmp_path / "export"), "--data", str(tmp_path / "held-out.jsonl"), "--out", str(tmp_path / "pairs")]
    assert program("eval", "pairs")([*arguments, "--bootstrap", "100"]) == 0
    again, expected = json.loads((tmp_path / "pairs" / "results.json").read_text()), results["transitive"]["gpm_d2"]
    assert again["overall"]["score"] == pytest.approx(expected["accuracy"])
    assert again["calibration"]["log_loss"]["score"] == pytest.approx(expected["log_loss"], abs=1e-4)
    assert (tmp_path / "cycle.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "not generalisation" in printed and "held out" in printed


def test_training_and_held_out_prompts_are_disjoint(tmp_path: Path) -> None:
    sets = quickstart.comparisons(quickstart.Settings("", 36, 36, 1, 0))
    prompts = {kind: {c.prompt for c in comparisons} for kind, comparisons in sets.items()}
    assert not prompts["train"] & prompts["held"] and not prompts["cyclic"] & prompts["held"]
    assert min(map(len, sets.values())) >= 50


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--steps must be at least 1"):
        main(["--steps", "0"])
