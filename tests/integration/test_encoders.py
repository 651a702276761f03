"""Encoders as backbones: all heads train, resume to the same bytes, export and score; a gate is refused."""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import pytest
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

from benchmarks.reliability import Case, Trials

fit, score = program("fit"), program("score")


def pairs(path: Path, count: int = 64) -> Path:
    """Answers that end in good and bad, and otherwise say nothing."""
    draw, words = random.Random(0), ("red", "blue", "green", "seven", "nine")
    with path.open("w") as file:
        for number in range(count):
            asked, one, two = (draw.choice(words) for _ in range(3))
            file.write(json.dumps({"prompt": f"Say {asked} {number}", "chosen": f"{one} good", "rejected": f"{two} bad"}) + "\n")
    return path


@pytest.mark.parametrize(
    ("head", "kind", "more"),
    [
        ("bt", "modernbert", {"lora": "null"}),
        ("gpm", "modernbert", {"lora": "null", "pooling": "mean"}),
        ("pairpm", "modernbert", {"lora": "null"}),
        ("hybrid", "modernbert", {"lora": "null", "pooling": "last"}),
        ("bt", "deberta-v2", {"lora": "null", "frozen": "true"}),
        ("gpm", "t5", {}),
    ],
)
def test_heads_learn_64_pairs(head: str, kind: str, more: dict[str, str], tmp_path: Path) -> None:
    """With all weights trained to more than 95 %; adapters and heads alone, on a random model, to a smaller loss."""
    full, epochs = more.get("lora") == "null" and "frozen" not in more, 3
    if head == "pairpm" or not full:
        epochs = 6
    encoders.folder(tmp_path / "base", kind, "EncoderModel" if kind == "t5" else "Model")
    data = str(pairs(tmp_path / "d.jsonl"))
    backbone = [f"--model.backbone.{name}={value}" for name, value in more.items()]
    skew = ["--model.head.skew", "BlockSkew"] if head in ("gpm", "hybrid") else []
    skew += ["--model.head.readout", "linear"] if head == "pairpm" else []
    options = ["--data.train", data, "--data.val", data, "--data.batch_size", "8", "--model.optimizer.lr", "0.005"]
    options += ["--trainer.accumulate_grad_batches", "1", "--trainer.enable_model_summary", "false"]
    options += ["--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"]
    options += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert fit(["--config", f"tiny/{head}", "--model.backbone.path", str(tmp_path / "base"), *backbone, *skew, *options]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    scorer = Scorer.from_pretrained(tmp_path / "run" / "export")
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    records = [
        Comparison(*((Message(role, row[key]),) for role, key in zip(("user", "assistant", "assistant"), row, strict=True))) for row in rows
    ]
    found = np.array(list(scorer.compare(records)))
    assert (found > 0).mean() > 0.95 if full else losses[-1] < losses[0]
    assert np.logaddexp(0, -found).mean() == pytest.approx(min(losses), abs=2e-4)  # the model that was best is the one that scores
    swapped = [Comparison(r.prompt, r.rejected, r.chosen) for r in records[:8]]
    assert list(scorer.compare(swapped)) == pytest.approx((-found[:8]).tolist(), abs=1e-5)
    assert scorer.describe()["layout"] == "padded"
    if "pooling" in more:
        assert json.loads((tmp_path / "run" / "export" / "prefrep.json").read_text())["backbone"]["pooling"] == more["pooling"]


@dataclass(frozen=True)
class EncoderCase(Case):
    """A run on an encoder."""

    path: str = ""

    def configuration(self) -> dict[str, Any]:
        found = super().configuration()
        found["model"]["init_args"]["backbone"]["init_args"]["path"] = self.path
        found["model"]["init_args"]["head"]["init_args"]["skew"] = {"class_path": "BlockSkew"}
        return found


@pytest.mark.parametrize("kind", ["full", pytest.param("frozen", marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_nothing_had_happened(kind: str, tmp_path: Path) -> None:
    encoders.folder(tmp_path / "base", "modernbert")
    trials, case = Trials(tmp_path / "trials"), EncoderCase(kind, 2, "steps", path=str(tmp_path / "base"))
    _, size = trials.reference(case)
    interrupted, found = trials.trial(kind, case, [size // 3], signal.SIGKILL)
    assert interrupted and not found


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
