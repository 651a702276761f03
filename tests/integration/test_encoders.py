"""Encoders as backbones: all heads train, resume to the same bytes, export and score; a gate is refused."""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import pytest
import yaml
from conftest import program

from prefrep.errors import ConfigError
from prefrep.modules import GeneralPreference
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import GatedSkew
from prefrep.records import Comparison, Message
from prefrep.scoring import Scorer

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common import ROOT
from benchmarks.reliability import Case, Trials

fit, score, sweep = program("fit"), program("score"), program("sweep")
ASKED = "\nA good answer? [MASK]"
ROLES = (("user", "prompt"), ("assistant", "chosen"), ("assistant", "rejected"))
# Each head as its tiny configuration has it, but for what an encoder does not have: an output layer, and a state of the prompt alone.
HEADS: dict[str, dict[str, str]] = {
    "bt": {}, "pairpm": {"readout": "linear"}, "gpm": {"skew": "BlockSkew"}, "hybrid": {"skew": "BlockSkew"}, "personal": {},
}  # fmt: skip


def pairs(path: Path, count: int = 64) -> Path:
    """Answers that end in good and bad, and otherwise say nothing."""
    draw, words = random.Random(0), ("red", "blue", "green", "seven", "nine")
    with path.open("w") as file:
        for number in range(count):
            asked, one, two = (draw.choice(words) for _ in range(3))
            row = {"prompt": f"Say {asked} {number}", "chosen": f"{one} good", "rejected": f"{two} bad", "annotator": "ab"[number % 2]}
            file.write(json.dumps(row) + "\n")
    return path


def records_of(path: Path) -> list[Comparison]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    said = [[(Message(role, row[key]),) for role, key in ROLES] for row in rows]
    return [Comparison(*texts, annotator=row["annotator"]) for texts, row in zip(said, rows, strict=True)]


@dataclass(frozen=True)
class EncoderCase(Case):
    """A run on an encoder whose weights all train."""

    head: str = ""
    path: str = ""
    epochs: int = 3

    def configuration(self) -> dict[str, Any]:
        found = super().configuration()
        found["model"] = yaml.safe_load((ROOT / "configs" / "tiny" / f"{self.head}.yaml").read_text())["model"]
        parts = found["model"]["init_args"]
        parts["backbone"]["init_args"] = {"path": self.path}
        parts["optimizer"]["init_args"]["lr"] = 0.005
        parts["head"].setdefault("init_args", {}).update(HEADS[self.head])
        found["data"]["batch_size"] = 8
        found["trainer"]["max_epochs"] = self.epochs
        return found


@pytest.mark.parametrize("head", [pytest.param(head, marks=pytest.mark.slow) if head in ("hybrid", "personal") else head for head in HEADS])
def test_each_head_learns_64_pairs_is_killed_and_goes_on_scores_and_is_swept(head: str, tmp_path: Path) -> None:
    """As fit, score and sweep do: more than 95 % of the pairs, the bytes of an undisturbed run, the export's scores, frozen states."""
    encoders.folder(tmp_path / "base", "modernbert")
    trials = Trials(tmp_path / "trials")
    data, val = (pairs(tmp_path / "trials" / f"{name}.jsonl") for name in ("train", "val"))
    case = EncoderCase("full", 1, "steps", head=head, path=str(tmp_path / "base"), epochs=6 if head == "pairpm" else 3)
    run, size = trials.reference(case)
    interrupted, differs = trials.trial("killed", case, [size // 2], signal.SIGKILL)
    assert interrupted and not differs

    records = records_of(data)
    scorer = Scorer.from_pretrained(run / "export")
    found = np.array(list(scorer.compare(records)))
    losses = [json.loads(line).get("val/loss", np.inf) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (found > 0).mean() > 0.95
    assert np.logaddexp(0, -found).mean() == pytest.approx(min(losses), abs=2e-4), "the model that was best is the one that scores"
    swapped = [replace(r, chosen=r.rejected, rejected=r.chosen) for r in records[:8]]
    assert list(scorer.compare(swapped)) == pytest.approx((-found[:8]).tolist(), abs=1e-5)
    assert scorer.describe()["layout"] == "padded"
    assert score(["--model", str(run / "export"), "--data", str(data), "--out", str(tmp_path / "s.jsonl")]) == 0
    lines = [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert lines == pytest.approx(found.tolist(), abs=1e-5)

    (tmp_path / "sweep.yaml").write_text(
        f"base: {ROOT}/configs/tiny/{head}.yaml\n"
        f"set: {json.dumps({f'model.head.{name}': value for name, value in HEADS[head].items()})}\n"
        "grid: {model.optimizer.lr: [0.01]}\n"
    )
    frozen = {"model.backbone.path": tmp_path / "base", "model.backbone.lora": "null", "model.backbone.frozen": "true"}
    frozen |= {"data.train": data, "data.val": val, "data.batch_size": 32, "data.cache": tmp_path / "cache", "trainer.accelerator": "cpu"}
    sets = [text for name, value in frozen.items() for text in ("--set", f"{name}={value}")]
    assert sweep(["--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "sweep"), *sets]) == 0
    for point in sorted((tmp_path / "sweep" / "points").iterdir()):
        assert json.loads((point / "point.json").read_text())["engine"] == "frozen"
        lines = [json.loads(line)["score"] for line in (point / "scores.jsonl").read_text().splitlines()]
        assert list(Scorer.from_pretrained(point / "export").compare(records)) == pytest.approx(lines, abs=1e-4)


@pytest.mark.parametrize(
    ("head", "kind", "more"),
    [
        ("gpm", "modernbert", {"lora": "null", "pooling": "mean"}),
        ("bt", "deberta-v2", {"lora": "null", "frozen": "true"}),
        ("bt", "modernbert", {"lora": "null", "pooling": "mask"}),
        ("gpm", "t5", {}),
    ],
)
def test_other_encoders_and_places_learn(head: str, kind: str, more: dict[str, str], tmp_path: Path) -> None:
    """With all weights trained to more than 95 %; adapters and heads alone, on a random model, to a smaller loss."""
    full = more.get("lora") == "null" and "frozen" not in more
    encoders.folder(tmp_path / "base", kind, "EncoderModel" if kind == "t5" else "Model")
    data = pairs(tmp_path / "d.jsonl")
    made = [f"--model.backbone.{name}={value}" for name, value in more.items()]
    made += [f"--model.head.{name}={value}" for name, value in HEADS[head].items()]
    options = ["--data.train", str(data), "--data.val", str(data), "--data.batch_size", "8", "--model.optimizer.lr", "0.005"]
    options += ["--trainer.accumulate_grad_batches", "1", "--trainer.enable_model_summary", "false"]
    options += ["--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false"]
    made += ["--data.instruction", ASKED] if more.get("pooling") == "mask" else []
    options += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert fit(["--config", f"tiny/{head}", "--model.backbone.path", str(tmp_path / "base"), *made, *options]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    scorer = Scorer.from_pretrained(tmp_path / "run" / "export")
    found = np.array(list(scorer.compare(records_of(data))))
    assert (found > 0).mean() > 0.95 if full else losses[-1] < losses[0]
    assert np.logaddexp(0, -found).mean() == pytest.approx(min(losses), abs=2e-4)
    if "pooling" in more:
        assert json.loads((tmp_path / "run" / "export" / "prefrep.json").read_text())["backbone"]["pooling"] == more["pooling"]
    if more.get("pooling") == "mask":  # the instruction travels with the export, and training goes on with it
        options[-1] = str(tmp_path / "more")
        options += ["--init-from", str(tmp_path / "run" / "export"), "--trainer.max_steps", "1", "--model.optimizer.lr", "0"]
        assert fit(["--config", f"tiny/{head}", "--model.backbone.lora", "null", *options]) == 0
        again = Scorer.from_pretrained(tmp_path / "more" / "export")
        assert again.encode.instruction == scorer.encode.instruction == ASKED
        assert list(again.compare(records_of(data))) == pytest.approx(found.tolist(), abs=1e-4)


def test_states_of_two_places_are_two_kinds_of_states(tmp_path: Path) -> None:
    """What a frozen encoder is read at is part of what its cached states are."""
    encoders.folder(tmp_path / "base", "modernbert")
    data = [str(pairs(tmp_path / "d.jsonl", 8)), "--model.backbone.path", str(tmp_path / "base"), "--data.cache", str(tmp_path / "cache")]
    for pooling in ("first", "mean"):
        options = ["--model.backbone.frozen", "true", "--model.backbone.lora", "null", "--model.backbone.pooling", pooling]
        options += ["--trainer.default_root_dir", str(tmp_path / pooling), "--trainer.enable_model_summary", "false"]
        assert fit(["--config", "tiny/bt", "--data.train", data[0], "--data.val", *data, *options]) == 0
        line = json.loads((tmp_path / pooling / "metrics.jsonl").read_text().splitlines()[-1])
        found = np.array(list(Scorer.from_pretrained(tmp_path / pooling / "export").compare(records_of(tmp_path / "d.jsonl"))))
        assert np.logaddexp(0, -found).mean() == pytest.approx(line["val/loss"], abs=1e-4)


def test_gates_are_refused(tmp_path: Path) -> None:
    """A prompt's last state depends on the answer."""
    encoders.folder(tmp_path / "base", "modernbert")
    model = GeneralPreference(lambda: Backbone(str(tmp_path / "base")), lambda size: GPMHead(size, 4, GatedSkew))
    with pytest.raises(ConfigError, match="a gate has no state of the prompt alone; choose another skew"):
        model.configure_model()


@pytest.mark.parametrize("options", [{"pooling": "decoder"}, {"pooling": "marked"}, {"attention": "trees"}, {"marks": [3]}])
def test_what_an_encoder_is_not(options: dict[str, Any], tmp_path: Path) -> None:
    encoders.folder(tmp_path / "base", "modernbert")
    with pytest.raises(ConfigError, match=r"use auto|give both or neither|has none"):
        Backbone(str(tmp_path / "base"), **options)
    with pytest.raises(ConfigError, match="before it has read the text"):
        Backbone("bundled:tiny-llama", pooling="first")


@pytest.mark.parametrize("kind", encoders.ENCODERS)
def test_adapters_begin_as_nothing_and_merge(kind: str, tmp_path: Path) -> None:
    encoders.folder(tmp_path / "base", kind, "EncoderModel" if kind == "t5" else "Model")
    plain, adapted = (Backbone(str(tmp_path / "base"), lora=lora).eval() for lora in (None, LoRA(rank=2)))
    assert set(plain.merged_state()) == set(adapted.merged_state())
    assert any(parameter.requires_grad for parameter in adapted.parameters())
