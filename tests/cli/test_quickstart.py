"""The quickstart on a tiny model, and the memory of hidden states that it trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prefrep.cli import quickstart
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trees import collate
from prefrep.errors import ConfigError, DataError
from prefrep.modules.remembered import read_texts
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, Message


def compare(prompt: str, a: str, b: str) -> Comparison:
    return Comparison((Message("user", prompt),), (Message("assistant", a),), (Message("assistant", b),))


# A cycle, a pair of another prompt, and a repeated pair the other way round.
COMPARISONS = [compare("p", "one", "two is longer"), compare("p", "two is longer", "three"), compare("p", "three", "one"),
               compare("q", "one", "two"), compare("q", "two", "one")]  # fmt: skip


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_remembered_states_are_those_of_reading_each_comparison_alone(layout: str) -> None:
    backbone = Backbone(path="bundled:tiny-llama", frozen=True)
    reading = read_texts(backbone, COMPARISONS, layout, batch_tokens=100)
    assert len(reading.states) == {"single": 3 + 2, "pair": 2 * 4}[layout]  # each text once
    batch = reading.batch(COMPARISONS)
    remembered = reading.backbone()(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded).flatten(0, 1)[batch.end]
    encoder = Encoder(backbone.tokenizer(), EncodeConfig(), layout)
    for number, comparison in enumerate(COMPARISONS):
        (_, datum), = encoder.encode([comparison])  # fmt: skip
        alone = collate([datum], 0, "padded")
        hidden = backbone(alone.ids, alone.positions, alone.tree, alone.branch, alone.padded).flatten(0, 1)[alone.end]
        torch.testing.assert_close(remembered[batch.pairs[number]], hidden[alone.pairs[0]], atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_not_forgotten() -> None:
    backbone = Backbone(path="bundled:tiny-llama", frozen=True)
    with pytest.raises(DataError, match=r"too long to be read .*1 dropped"):
        read_texts(backbone, [compare("p" * 50, "a", "b")], "single", EncodeConfig(max_length=20, truncation="drop"))


def test_runs_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        quickstart.main(["--model", "bundled:tiny-gpt2", "--out", str(tmp_path), "--prompts", "8", "--held-out", "6", "--steps", "800"])
        == 0
    )
    results = json.loads((tmp_path / "results.json").read_text())
    for kind in ("cyclic", "transitive"):
        assert set(results[kind]) == {"bt", "pairpm", "gpm_d2", "gpm_d4"}
        for entry in results[kind].values():
            low, high = entry["ci95"]
            assert 0 <= low <= entry["accuracy"] <= high <= 1 and entry["n"] > 5
    assert results["cyclic"]["bt"]["accuracy"] <= 2 / 3
    assert results["cyclic"]["gpm_d4"]["accuracy"] >= 0.99
    # The exported model, read again by the evaluation, decides as in training.
    assert results["bin/eval"]["accuracy"] == pytest.approx(results["transitive"]["gpm_d2"]["accuracy"])
    assert (tmp_path / "cycle.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "not generalisation" in printed and "held out" in printed


def test_training_and_held_out_prompts_are_disjoint(tmp_path: Path) -> None:
    sets = quickstart.Quickstart(tmp_path, "", 36, 36, 1, 0).comparisons()
    prompts = {kind: {c.prompt for c in comparisons} for kind, comparisons in sets.items()}
    assert not prompts["train"] & prompts["held"] and not prompts["cyclic"] & prompts["held"]
    assert min(map(len, sets.values())) >= 50


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--steps must be 1 or more"):
        quickstart.main(["--steps", "0"])
