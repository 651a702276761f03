"""The official ensemble of reward models (analysis/run_ensemble_offline.py of allenai/reward-bench at 05a9005), from our files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import program
from numpy.typing import NDArray

from prefrep.data.encode import EncodeConfig
from prefrep.io.folder import save
from prefrep.metrics.rewardbench import official_section_scores
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.scoring import Scorer, ranked

NAMES = ("me/one", "me/two")
MODES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "Mean": lambda rewards: rewards.mean(0),
    "Worst": lambda rewards: rewards.min(0),
    "Uncertainty": lambda rewards: rewards.mean(0) - rewards.std(0),
}
SUBSETS = ("alpacaeval-easy", "llmbar-natural", "donotanswer", "hep-go")
ROWS: list[dict[str, Any]] = [
    {
        "id": i, "subset": SUBSETS[i % 4], "prompt": f"Question {i}: what is {i} times {i + 3}?",
        "chosen": f"It is {i * (i + 3)}." + " Surely." * (i % 3), "rejected": f"I would say {i + 7}, or perhaps {i * 5}." + "?" * (i % 5),
    }
    for i in range(80)
]  # fmt: skip


def official(files: Mapping[str, Path], mode: str) -> dict[str, float]:
    """The script's arithmetic on files of `eval-set-scores`.

    Rewards of chosen and rejected answers together are standardised per model, each answer's are combined, and a strictly higher combined
    reward of the chosen one counts. Sections are means weighted by the official counts.
    """
    columns = [json.loads(file.read_text()) for file in files.values()]
    chosen, rejected = (np.array([each[f"scores_{side}"] for each in columns]) for side in ("chosen", "rejected"))
    both = np.concatenate([rejected, chosen], 1)
    mean, deviation = both.mean(1, keepdims=True), both.std(1, keepdims=True)
    wins = MODES[mode]((chosen - mean) / deviation) > MODES[mode]((rejected - mean) / deviation)
    subsets = np.array(columns[0]["subset"])
    return official_section_scores({subset: float(wins[subsets == subset].mean()) for subset in np.unique(subsets)})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[NDArray[np.float64]]]:
    """The official files of two Bradley-Terry models, and their rewards [N, 2] by Scorer."""
    place = tmp_path_factory.mktemp("ensemble")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    backbone, files, rewards = Backbone("bundled:tiny-llama").eval(), {}, []
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        head = BTHead(backbone.hidden_size)
        torch.nn.init.normal_(head.value_head.weight, std=0.5 + 2 * seed)
        model = place / f"model{seed}"
        save(model, backbone, head, 0.5, EncodeConfig(), backbone.tokenizer(), {})
        options = ["--model", str(model), "--data", str(place / "rows.jsonl"), "--out", str(place / f"out{seed}"), "--name", name]
        program("eval", "rewardbench")([*options, "--bootstrap", "10"])
        files[name] = place / f"out{seed}" / "eval-set-scores" / f"{name}.json"
        records = [ranked(row["prompt"], [row["chosen"], row["rejected"]]) for row in ROWS]
        rewards.append(np.array(list(Scorer.from_pretrained(model).rewards(records)), np.float64))
    return files, rewards


@pytest.mark.parametrize("mode", MODES)
def test_the_official_ensemble_of_our_files(mode: str, evaluated: tuple[dict[str, Path], list[NDArray[np.float64]]]) -> None:
    """Equal to the ensemble of the rewards themselves, pair by pair, and not to that of their differences."""
    files, rewards = evaluated
    standard = [(each - each.mean()) / each.std() for each in rewards]
    won: dict[str, list[bool]] = {}
    for i, row in enumerate(ROWS):
        of_chosen, of_rejected = (np.array([each[i, side] for each in standard])[:, None] for side in (0, 1))
        won.setdefault(row["subset"], []).append(bool(MODES[mode](of_chosen)[0] > MODES[mode](of_rejected)[0]))
    accuracy = {subset: sum(found) / len(found) for subset, found in won.items()}
    expected = dict(zip(("Chat", "Chat Hard", "Safety", "Reasoning"), (accuracy[subset] for subset in SUBSETS), strict=True))
    assert official(files, mode) == pytest.approx(expected, abs=1e-12)


def test_differences_in_place_of_rewards_would_give_another_number(
    evaluated: tuple[dict[str, Path], list[NDArray[np.float64]]], tmp_path: Path
) -> None:
    """What the files held before: the difference beside a zero."""
    files, _ = evaluated
    without = {}
    for name, file in files.items():
        columns = json.loads(file.read_text())
        differences = [a - b for a, b in zip(columns["scores_chosen"], columns["scores_rejected"], strict=True)]
        without[name] = tmp_path / f"{name.replace('/', '-')}.json"
        without[name].write_text(json.dumps(columns | {"scores_chosen": differences, "scores_rejected": [0.0] * len(differences)}))
    assert official(files, "Mean") != official(without, "Mean")
