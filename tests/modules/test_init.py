"""Training that begins with a model that was read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import COMPARISONS, program
from foreign import RECORDS, adapter, openrlhf_folder
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from prefrep.errors import CheckpointError, ConfigError, UsageError
from prefrep.io import adapters, folder, official, openrlhf, seqcls
from prefrep.io.folder import PreferenceModel
from prefrep.modules.models import BradleyTerry, GeneralPreference
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import BTHead, GPMHead
from prefrep.nn.lora import LoRA
from prefrep.nn.losses import LogisticLoss
from prefrep.nn.skew import GatedSkew
from prefrep.scoring import Scorer

fit = program("fit")


def rows(path: Path) -> str:
    texts = [{"prompt": p.prompt[0].content, "chosen": p.chosen[0].content, "rejected": p.rejected[0].content} for p in COMPARISONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return str(path)


def scores(model: PreferenceModel) -> list[float]:
    return list(Scorer(model).compare(COMPARISONS))


def trained(kind: str, init: Path, out: Path, *more: str, way: str = "--init-from") -> PreferenceModel:
    """The export of a run from `init` that takes one step of no length: what training begins with."""
    data = rows(out.parent / "train.jsonl")
    args = ["--config", f"tiny/{kind}", way, str(init), "--data.train", data, "--trainer.default_root_dir", str(out)]
    assert fit([*args, "--data.layout", "padded", "--trainer.max_steps", "1", "--model.optimizer.lr", "0", *more]) in (0, None)
    return folder.load(out / "export")


def classifier(path: Path) -> PreferenceModel:
    """A sequence classifier whose template goes on after the EOS, as TRL leaves it."""
    torch.manual_seed(0)
    place = resolve("bundled:tiny-qwen2")
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    config = AutoConfig.from_pretrained(place, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return seqcls.read(path)


def exported(path: Path, head: Any, lora: bool = False, weights: folder.Weights = "full") -> PreferenceModel:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2) if lora else None)
    torch.manual_seed(1)
    made = head(backbone.hidden_size)
    for name, parameter in (*made.named_parameters(), *backbone.named_parameters()):
        if "lora_" in name or name.endswith("head.weight"):
            torch.nn.init.normal_(parameter, std=0.4)
    folder.save(path, backbone, made, 0.25, seqcls.EncodeConfig("plain"), backbone.tokenizer(), {}, weights)
    return folder.load(path)


def test_a_classifier_is_trained_further_as_it_reads(tmp_path: Path) -> None:
    """Head, tokenizer and template are the classifier's; the result is written as a classifier again."""
    before = classifier(tmp_path / "rm")
    assert before.encode.template == "classifier" and max(map(abs, scores(before))) > 0.1
    after = trained("bt", tmp_path / "rm", tmp_path / "run")
    assert after.encode.template == "classifier"
    assert scores(after) == pytest.approx(scores(before), abs=1e-5)
    assert after.recipe["init"] == str(tmp_path / "rm")
    seqcls.write(tmp_path / "again", after)
    assert scores(seqcls.read(tmp_path / "again")) == pytest.approx(scores(before), abs=1e-5)
    moved = trained("bt", tmp_path / "rm", tmp_path / "run2", "--model.optimizer.lr", "0.01", "--trainer.max_steps", "3")
    assert not torch.equal(moved.head.value_head.weight, before.head.value_head.weight)  # type: ignore[attr-defined]
    gains = [b - a for a, b in zip(scores(before), scores(moved), strict=True)]
    assert sum(gains) > 0, "a few steps raise the preferred responses"


@pytest.mark.parametrize(("lora", "weights"), [(False, "full"), (True, "full"), (True, "reference")])
def test_exports_are_trained_further(lora: bool, weights: folder.Weights, tmp_path: Path) -> None:
    """Weights, head, temperature and template come from the folder, under new adapters; the configured head and tau are not used."""
    before = exported(tmp_path / "m", partial(GPMHead, dim=6), lora, weights)
    after = trained("gpm", tmp_path / "m", tmp_path / "run")
    assert isinstance(after.head, GPMHead) and after.head.dim == 6 and after.tau == 0.25 and after.encode.template == "plain"
    assert scores(after) == pytest.approx(scores(before), abs=1e-4)


def test_official_checkpoints_are_trained_further(tmp_path: Path) -> None:
    """The configured head and loss state what the checkpoint leaves open."""
    before = exported(tmp_path / "m", partial(GPMHead, dim=4, skew=GatedSkew))
    before.encode = seqcls.EncodeConfig("auto")
    official.write(tmp_path / "o", before)
    after = trained("gpm", tmp_path / "o", tmp_path / "run", "--model.head.skew", "GatedSkew", "--model.loss.tau", "0.25")
    assert scores(after) == pytest.approx(scores(before), abs=1e-4)
    with pytest.raises(CheckpointError, match="gated by the prompt"):
        trained("gpm", tmp_path / "o", tmp_path / "run2")


def _peft(path: Path) -> PreferenceModel:
    expected = adapter(path)
    model = adapters.read(path)
    assert rewards(model) == pytest.approx(expected, abs=1e-5)  # as peft computes them
    return model


def _openrlhf(path: Path) -> PreferenceModel:
    openrlhf_folder(path, "llama", trailing="That was all.")
    return openrlhf.read(path)


def rewards(model: PreferenceModel) -> list[float]:
    found: list[float] = np.concatenate(list(Scorer(model).rewards(RECORDS))).tolist()
    return found


@pytest.mark.parametrize(("make", "template"), [(_peft, "classifier"), (_openrlhf, "openrlhf")], ids=["peft", "openrlhf"])
@pytest.mark.parametrize("way", ["--init-from", "--model.init"])
def test_reward_models_of_others_are_trained_further(
    make: Callable[[Path], PreferenceModel], template: str, way: str, tmp_path: Path
) -> None:
    """Straight from the folder: adapter and base, head, temperature and template are those of the read model, and a step begins there."""
    before = make(tmp_path / "rm")
    assert before.encode.template == template and before.tau == 1.0
    after = trained("bt", tmp_path / "rm", tmp_path / "run", way=way)
    assert after.encode.template == template and after.tau == 1.0 and after.recipe["init"] == str(tmp_path / "rm")
    assert rewards(after) == pytest.approx(rewards(before), abs=1e-5)
    assert torch.equal(weight(after), weight(before))
    rate, decay = 1e-3, 0.01
    options = ["--model.optimizer.lr", str(rate), "--model.optimizer.weight_decay", str(decay)]
    moved = trained("bt", tmp_path / "rm", tmp_path / "step", *options, way=way)
    step = weight(moved) - weight(before) * (1 - rate * decay)
    # AdamW's first step has the length of its rate, whatever the gradient's.
    assert step.abs() == pytest.approx(torch.full_like(step, rate), rel=0.02)


@pytest.mark.parametrize("objective", ["", "honest"])
def test_a_model_with_objectives_goes_on_from_one_or_from_all(objective: str, tmp_path: Path) -> None:
    """With all of them as its authors weigh them; the export says which one counts."""
    place = families.write(tmp_path / "rm", "armorm")
    named = ["--objective", objective] if objective else []
    before = Scorer.from_pretrained(place, objective=objective).model
    after = trained("bt", place, tmp_path / "run", *named)
    assert after.head.objective == objective  # type: ignore[attr-defined]
    assert rewards(after) == pytest.approx(rewards(before), abs=1e-4)
    moved = trained("bt", place, tmp_path / "step", *named, "--model.optimizer.lr", "0.01", "--model.centre", "0.01" if objective else "0")
    kept = [torch.equal(a, b) for a, b in zip(*(each.head.gate.parameters() for each in (moved, before)), strict=True)]  # type: ignore[attr-defined]
    assert all(kept) if objective else not any(kept), "a gate that weighs nothing stays as it is"
    assert rewards(moved) != pytest.approx(rewards(before), abs=1e-3)


def test_a_kind_that_files_leave_open_is_said(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "better-pairrm")
    before = Scorer.from_pretrained(place, kind="better-pairrm").model
    after = trained("pairpm", place, tmp_path / "run", "--as", "better-pairrm")
    assert after.encode.template == before.encode.template == "better_pairrm"
    assert scores(after) == pytest.approx(scores(before), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--init-from", "{rm}", "--as", "nothing"], "--as nothing: no such kind; there are seqcls"),
        (["--init-from", "{rm}", "--objective", "kind"], "has one objective; leave --objective out"),
        (["--objective", "kind"], "name it with --init-from"),
        (["--init-from", "{rm}", "--objective"], "--objective needs a name"),
    ],
)
def test_kinds_and_objectives_that_are_not_there(options: list[str], problem: str, tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "ultrarm")
    data = ["--data.train", rows(tmp_path / "d.jsonl"), "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.raises((UsageError, ConfigError), match=problem):
        fit(["--config", "tiny/bt", *data, *(each.format(rm=place) for each in options)])


def test_a_policy_begins_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a policy begins with --model.backbone.path"):
        fit(["--config", "policy/dpo", "--data.train", rows(tmp_path / "d.jsonl"), "--init-from", "bundled:tiny-llama"])


def weight(model: PreferenceModel) -> torch.Tensor:
    found: torch.Tensor = model.head.value_head.weight.detach()  # type: ignore[attr-defined]
    return found


def test_the_first_loss_is_that_of_the_read_model(tmp_path: Path) -> None:
    before = exported(tmp_path / "m", BTHead)
    module = BradleyTerry(partial(Backbone, path="bundled:tiny-qwen2", lora=LoRA(rank=2)), init=str(tmp_path / "m"))
    backbone, head, loss = module.parts()
    assert backbone.lora is not None and backbone.training and any("lora_" in name for name, _ in backbone.named_parameters())
    assert torch.equal(head.value_head.weight, before.head.value_head.weight)  # type: ignore[attr-defined]
    assert loss.tau == 0.25 and module.template == "plain"
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_a_learned_temperature_goes_on(tmp_path: Path) -> None:
    exported(tmp_path / "m", BTHead)
    module = BradleyTerry(partial(Backbone, frozen=True), loss=partial(LogisticLoss, learn_tau=True), init=str(tmp_path / "m"))
    assert module.parts()[2].tau == pytest.approx(0.25)


@pytest.mark.parametrize("kind", [GeneralPreference])
def test_what_does_not_go_together_is_refused(kind: type[PreferenceModule], tmp_path: Path) -> None:
    exported(tmp_path / "m", BTHead)
    with pytest.raises(ConfigError, match="holds a BTHead, and GeneralPreference trains a GPMHead"):
        kind(partial(Backbone), init=str(tmp_path / "m")).parts()  # type: ignore[call-arg]
    with pytest.raises(CheckpointError, match="without a preference head"):
        BradleyTerry(init="bundled:tiny-llama").parts()
    with pytest.raises(CheckpointError, match="no such folder"):
        BradleyTerry(init="./nothing").parts()
