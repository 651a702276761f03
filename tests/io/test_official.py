"""The official GPM layout: what is written, what is read back, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMPARISONS, program
from safetensors.torch import load_file, save_file

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError, UsageError
from prefrep.io import folder, official
from prefrep.io.folder import PreferenceModel
from prefrep.io.heads import describe_head
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, PairHead, PreferenceHead
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew
from prefrep.scoring import Scorer

export = program("export")

HEADS = {
    "bt": (BTHead, {"gate": "none", "normalize": False}),
    "block": (partial(GPMHead, dim=4), {"gate": "none", "normalize": True}),
    "block, free": (partial(GPMHead, dim=2, normalize=False), {"gate": "none", "normalize": False}),
    **{
        variant: (partial(GPMHead, dim=6, skew=partial(GatedSkew, variant=variant)), {"gate": variant, "normalize": True})
        for variant in ("softmax", "scaled_softmax", "nonnegative")
    },
}
GPM: dict[str, Any] = {"tau": 0.1, "normalize": True, "gate": "softmax", "template": "official"}


def model_of(head: Any, family: str = "llama", **backbone: Any) -> PreferenceModel:
    reader = Backbone(f"bundled:tiny-{family}", **backbone).eval()
    torch.manual_seed(2)
    made: PreferenceHead = head(reader.hidden_size)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return PreferenceModel(reader, made, 0.25, EncodeConfig(template="official", max_length=512), reader.tokenizer(), {})


def scores(model: PreferenceModel) -> list[float]:
    return list(Scorer(model).compare(COMPARISONS))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_there_and_back(kind: str, family: str, tmp_path: Path) -> None:
    head, settings = HEADS[kind]
    model = model_of(head, family)
    stated = official.write(tmp_path / "o", model)
    assert stated == {**settings, "tau": 0.25, "template": "official", "max_length": 512}
    again = official.read(tmp_path / "o", **stated)
    assert describe_head(again.head) == describe_head(model.head)
    expected = scores(model)
    assert max(map(abs, expected)) > 0.1
    assert scores(again) == pytest.approx(expected, abs=1e-5)


def test_the_layout(tmp_path: Path) -> None:
    """Names and shapes of facts: one tensor more, or two; no bias; nothing in config.json but the architecture; no pickles."""
    official.write(tmp_path / "gated", model_of(HEADS["softmax"][0]))
    official.write(tmp_path / "bt", model_of(BTHead))
    base = set(load_file(tmp_path / "bt" / "model.safetensors")) - {"value_head.weight"}
    gated = load_file(tmp_path / "gated" / "model.safetensors")
    assert set(gated) == base | {"value_head.weight", "prompt_head.weight"}
    assert all(name.startswith("model.") or name == "lm_head.weight" for name in base)
    assert list(gated["value_head.weight"].shape) == [6, 32] and list(gated["prompt_head.weight"].shape) == [3, 32]
    assert list(load_file(tmp_path / "bt" / "model.safetensors")["value_head.weight"].shape) == [1, 32]
    config = json.loads((tmp_path / "gated" / "config.json").read_text())
    assert config["architectures"] == ["CustomRewardModel"] and config["model_type"] == "llama"
    assert {file.suffix for file in (tmp_path / "gated").iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_heads_are_found_in_any_shard(tmp_path: Path) -> None:
    """Released models have the heads in their last shard, named by an index."""
    model = model_of(HEADS["softmax"][0])
    stated = official.write(tmp_path / "o", model)
    state = load_file(tmp_path / "o" / "model.safetensors")
    (tmp_path / "o" / "model.safetensors").unlink()
    where = {}
    for number, part in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / "o" / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(part, shard)
    assert where["value_head.weight"] != where["prompt_head.weight"]
    (tmp_path / "o" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert scores(official.read(tmp_path / "o", **stated)) == pytest.approx(scores(model), abs=1e-5)


def test_lora_is_merged(tmp_path: Path) -> None:
    model = model_of(HEADS["softmax"][0], lora=LoRA(rank=2))
    plain = scores(model)
    for name, parameter in model.backbone.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    expected = scores(model)
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 1e-2
    assert scores(official.read(tmp_path / "o", **official.write(tmp_path / "o", model))) == pytest.approx(expected, abs=1e-4)


def test_weights_keep_their_type(tmp_path: Path) -> None:
    official.write(tmp_path / "o", model_of(HEADS["softmax"][0], dtype="bfloat16"))
    assert official.read(tmp_path / "o", **GPM).backbone.model.dtype == torch.bfloat16
    assert official.read(tmp_path / "o", **GPM, dtype="float32").backbone.model.dtype == torch.float32
    assert official.read(tmp_path / "o", **GPM).head.value_head.weight.dtype == torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize("left_out", GPM)
def test_everything_that_moves_a_score_is_stated(left_out: str) -> None:
    with pytest.raises(TypeError, match=left_out):
        official.read("anything", **{name: value for name, value in GPM.items() if name != left_out})


@pytest.mark.parametrize(
    ("kind", "stated", "message"),
    [
        ("softmax", {"gate": "none"}, "gated by the prompt"),
        ("block", {}, "not gated"),
        ("bt", {"gate": "none"}, "not normalised"),
    ],
)
def test_statements_that_the_tensors_contradict(kind: str, stated: dict[str, Any], message: str, tmp_path: Path) -> None:
    official.write(tmp_path / "o", model_of(HEADS[kind][0]))
    with pytest.raises(CheckpointError, match=message):
        official.read(tmp_path / "o", **{**GPM, **stated})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value_head.weight": None}, "no value_head.weight"),
        ({"value_head.weight": [6, 16]}, "hidden size is 32"),
        ({"value_head.weight": [3, 32]}, "even number"),
        ({"prompt_head.weight": [2, 32]}, "does not fit"),
        ({"value_head.weight": [1, 32]}, "does not fit"),
    ],
)
def test_tensors_that_make_no_head(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    official.write(tmp_path / "o", model_of(HEADS["softmax"][0]))
    file = tmp_path / "o" / "model.safetensors"
    state = load_file(file)
    for name, shape in change.items():
        state.pop(name)
        if shape:
            state[name] = torch.zeros(shape)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        official.read(tmp_path / "o", **GPM)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        official.read(tmp_path / "nothing", **GPM)
    official.write(tmp_path / "o", model_of(HEADS["softmax"][0]))
    with pytest.raises(ConfigError, match="tau must be positive"):
        official.read(tmp_path / "o", **{**GPM, "tau": 0.0})
    file = tmp_path / "o" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot read its safetensors"):
        official.read(tmp_path / "o", **GPM)
    file.rename(tmp_path / "o" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles .* are never read"):
        official.read(tmp_path / "o", **GPM)


@pytest.mark.parametrize("head", [PairHead, partial(GPMHead, dim=4, skew=LearnedSkew)])
def test_models_that_the_layout_cannot_express(head: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no place for (PairHead|LearnedSkew)"):
        official.write(tmp_path / "o", model_of(head))
    assert not (tmp_path / "o").exists()


def test_d2_with_a_softmax_gate_scores_as_without(tmp_path: Path) -> None:
    model = model_of(partial(GPMHead, dim=2, skew=GatedSkew))
    again = official.read(tmp_path / "o", **official.write(tmp_path / "o", model))
    ungated = PreferenceModel(again.backbone, GPMHead(32, dim=2, skew=BlockSkew), 0.25, again.encode, again.tokenizer, {})
    ungated.head.load_state_dict({"value_head.weight": again.head.value_head.weight.detach()})  # type: ignore[attr-defined]
    assert scores(again) == pytest.approx(scores(ungated), abs=1e-5)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(HEADS["scaled_softmax"][0])
    folder.save(tmp_path / "a", model.backbone, model.head, model.tau, model.encode, model.tokenizer, {})
    assert export(["--model", str(tmp_path / "a"), "--to", "official", "--out", str(tmp_path / "b")]) == 0
    assert "tau 0.25, normalize True, gate scaled_softmax, template official" in capsys.readouterr().out
    back = ["--model", str(tmp_path / "b"), "--from", "official", "--out", str(tmp_path / "c"), "--tau", "0.25", "--gate", "scaled_softmax"]
    assert export([*back, "--normalize", "--template", "official"]) == 0
    assert list(Scorer.from_pretrained(tmp_path / "c", device="cpu").compare(COMPARISONS)) == pytest.approx(scores(model), abs=1e-5)
    with pytest.raises(UsageError, match="state --normalize, --template"):
        export(back)


@pytest.mark.parametrize(
    ("template", "chats", "stated"), [("chat", True, "auto"), ("auto", True, "auto"), ("plain", False, "auto"), ("plain", True, "")]
)
def test_a_template_is_stated_or_refused(template: str, chats: bool, stated: str, tmp_path: Path) -> None:
    """What `write` says restores the scores; a template that `read` does not know is refused, not renamed."""
    model = model_of(HEADS["softmax"][0])
    if not chats:
        model.tokenizer.chat_template = None
    model = replace(model, encode=EncodeConfig(template=template, max_length=512))  # type: ignore[arg-type]
    if not stated:
        with pytest.raises(ConfigError, match="template 'plain'"):
            official.write(tmp_path / "o", model)
        return
    said = official.write(tmp_path / "o", model)
    assert said["template"] == stated and scores(official.read(tmp_path / "o", **said)) == pytest.approx(scores(model), abs=1e-4)
