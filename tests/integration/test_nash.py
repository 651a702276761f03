"""Objectives that refer to earlier rounds: what a round keeps for them, and that a killed run ends with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from integration.test_gpo import fit, judged_by, killed, lines, weights

from prefrep.data.prompts import PromptData
from prefrep.errors import DataError
from prefrep.generation import TransformersSampler
from prefrep.judges import concise
from prefrep.modules import GPO

RULE = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}
LOOKING_BACK = ("OptimisticObjective", "ExtragradientObjective", "MagneticObjective", "SemiPolicyObjective")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Say {name}\n" for name in ("one", "two and three", "four")))
    return file


def options(objective: str, folder: Path) -> list[str]:
    """The tiny recipe with another objective, and without held-out prompts, whose sampling would be most of a run."""
    family = {"class_path": "PanelJudge", "init_args": {"judges": {"one": RULE, "other": RULE}}}
    file = Path(judged_by(folder, family if objective == "PessimisticDistillObjective" else RULE))
    content = yaml.safe_load(file.read_text())
    content["trainer"]["callbacks"] = [each for each in content["trainer"]["callbacks"] if each["class_path"] != "HeldOut"]
    file.write_text(yaml.safe_dump(content))
    rounds = "2" if objective in LOOKING_BACK else "1"
    return ["--config", str(file), "--model.objective", objective, "--model.objective.beta", "0.05", "--trainer.max_epochs", rounds]


# Three prompts in batches of two: two calls of everything in a round, and two steps.
PLACES = {
    "OptimisticObjective": (TransformersSampler, "sample", 6),  # of pi_0, in round 1
    "ExtragradientObjective": (GPO, "measure", 8),  # round 0 takes 2, round 1 takes 4 of pi_1 and pi_0, and 2 of the centre
    "MagneticObjective": (GPO, "training_step", 4),
    "SemiPolicyObjective": (PromptData, "batch", 3),
    "INPOObjective": (GPO, "training_step", 2),
    "PessimisticDistillObjective": (GPO, "training_step", 2),
}


@pytest.mark.parametrize("objective", PLACES)
def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(objective: str, prompts: Path, tmp_path: Path) -> None:
    more = options(objective, tmp_path)
    fit(prompts, tmp_path / "whole", *more)
    killed(prompts, tmp_path / "run", *PLACES[objective], *more)
    fit(prompts, tmp_path / "run", *more)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "run" / "rounds" / "0" / "policy.safetensors").exists() == (objective in LOOKING_BACK)
    for file in (tmp_path / "whole" / "rounds").glob("*/*"):
        assert file.read_bytes() == (tmp_path / "run" / "rounds" / file.parent.name / file.name).read_bytes()


def test_what_rounds_keep_of_earlier_policies(prompts: Path, tmp_path: Path) -> None:
    """In round 1 the earlier policy is pi_0, whose log-probabilities LoRA gives too, by taking its adapters away."""
    more = options("OptimisticObjective", tmp_path)
    fit(prompts, tmp_path / "run", *more)
    out = tmp_path / "run"
    first, second = lines(out, 0, "reference"), lines(out, 1, "reference")
    assert [line["logprobs"] for line in lines(out, 0, "earlier_reference")] == [line["logprobs"] for line in first]
    for line, initial in zip(lines(out, 1, "earlier_reference"), second, strict=True):
        assert line["logprobs"] == pytest.approx(initial["initial"], abs=1e-4) and initial["initial"] != initial["logprobs"]
    for label in lines(out, 0, "labels"):
        assert label["earlier_table"] == label["table"]
    assert not (out / "rounds" / "0" / "earlier.jsonl").exists()
    for made, other, label in zip(lines(out, 1, "samples"), lines(out, 1, "earlier"), lines(out, 1, "labels"), strict=True):
        assert label["earlier_table"] == [[concise("", a, b) for b in other["responses"]] for a in made["responses"]]
        assert label["initial_table"] == [[], [], []] and len(other["responses"]) == 3


def test_weights_of_a_round_that_were_deleted_are_missed(prompts: Path, tmp_path: Path) -> None:
    more = options("ExtragradientObjective", tmp_path)
    fit(prompts, tmp_path / "run", *more, "--trainer.max_epochs", "1")
    (tmp_path / "run" / "rounds" / "0" / "policy.safetensors").unlink()
    with pytest.raises(DataError, match=r"rounds/0/policy.safetensors: no weights of that round; start again"):
        fit(prompts, tmp_path / "run", *more)
