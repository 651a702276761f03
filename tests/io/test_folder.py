"""Exported folders: what is loaded scores as what was saved, and a damaged folder is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMPARISONS
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, DeepseekV3Config, DeepseekV3ForCausalLM

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io import folder, policy
from prefrep.io.folder import PreferenceModel
from prefrep.io.heads import describe_head
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import GatedSkew, LearnedSkew
from prefrep.scoring import Scorer

HEADS: dict[str, Callable[[int], PreferenceHead]] = {
    "bt": BTHead,
    "pair": PairHead,
    "pair, answers": partial(PairHead, readout="tokens", answers=("yes", "no")),
    "block": partial(GPMHead, dim=4),
    "block, free": partial(GPMHead, dim=2, normalize=False),
    "learned": partial(GPMHead, dim=4, skew=LearnedSkew),
    "softmax": partial(GPMHead, dim=4, skew=GatedSkew),
    "scaled": partial(GPMHead, dim=6, skew=partial(GatedSkew, variant="scaled_softmax")),
    "nonnegative": partial(GPMHead, dim=4, skew=partial(GatedSkew, variant="nonnegative")),
    "hybrid": HybridHead,
    "hybrid, gated": partial(HybridHead, dim=4, skew=partial(GatedSkew, variant="scaled_softmax"), normalize=False),
}


def model_of(kind: str = "softmax", **backbone: Any) -> PreferenceModel:
    """A model whose head, and whatever else of it can be trained, is random and far from where it started."""
    reader = Backbone(backbone.pop("path", "bundled:tiny-llama"), **backbone).eval()
    torch.manual_seed(3)
    head = HEADS[kind](reader.hidden_size)
    for name, parameter in [*head.named_parameters(), *((n, p) for n, p in reader.named_parameters() if "lora_" in n)]:
        torch.nn.init.normal_(parameter, std=0.2 if "lora_" in name else 0.5)
    return PreferenceModel(reader, head, 0.5, EncodeConfig(max_length=300, truncation="keep_start"), reader.tokenizer(), {"step": 7})


def save(target: Path, model: PreferenceModel, weights: folder.Weights = "full") -> Path:
    folder.save(target, model.backbone, model.head, model.tau, model.encode, model.tokenizer, model.recipe, weights)
    return target


def scores(model: PreferenceModel) -> list[float]:
    return list(Scorer(model).compare(COMPARISONS))


def experts(target: Path) -> str:
    """A random DeepSeek-V3, whose experts peft adapts as parameters."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1, n_group=1, topk_group=1, initializer_range=0.2,
    )  # fmt: skip
    DeepseekV3ForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return str(target)


def test_adapters_of_experts_are_merged(tmp_path: Path) -> None:
    model = model_of("bt", path=experts(tmp_path / "base"), lora=LoRA(rank=2))
    expected, plain = scores(model), scores(replace(model, backbone=Backbone(model.backbone.path, frozen=True).eval()))
    assert expected != pytest.approx(plain, abs=0.1)
    for weights in ("full", "reference"):
        assert scores(folder.load(save(tmp_path / weights, model, weights))) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]
    base, merged = load_file(tmp_path / "base" / "model.safetensors"), load_file(tmp_path / "full" / "model.safetensors")
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert merged.keys() == base.keys() and any(".experts.0.gate_proj" in name for name in changed)
    with pytest.raises(ConfigError, match="weights: merged"):
        policy.check(model.backbone, "adapter")
    with pytest.raises(ConfigError, match=r"peft refuses these adapters.*lora_dropout"):
        Backbone(model.backbone.path, lora=LoRA(dropout=0.1))


@pytest.mark.parametrize("kind", HEADS)
def test_loaded_scores_are_identical(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    loaded = folder.load(save(tmp_path / "m", model))
    expected = scores(model)
    assert len({round(score, 3) for score in expected}) == len(expected)
    assert scores(loaded) == expected
    assert describe_head(loaded.head) == describe_head(model.head)
    assert (loaded.tau, loaded.encode) == (0.5, model.encode)
    assert loaded.recipe["step"] == 7
    table, again = (Scorer(m).table("Which?", ["this", "that", "neither of them"]) for m in (model, loaded))
    assert (table == again).all() and (table == -table.T).all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_lora_merged(family: str, tmp_path: Path) -> None:
    """Merging rounds; loaded as plain weights."""
    model = model_of(path=f"bundled:tiny-{family}", lora=LoRA(rank=2, alpha=8.0))
    plain = scores(PreferenceModel(Backbone(f"bundled:tiny-{family}"), model.head, 0.5, model.encode, model.tokenizer, {}))
    expected = scores(model)
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 1e-2
    loaded = folder.load(save(tmp_path / "m", model))
    assert scores(loaded) == pytest.approx(expected, abs=1e-4)
    assert not any("lora_" in name for name, _ in loaded.backbone.named_parameters())


def test_lora_by_reference(tmp_path: Path) -> None:
    """Only what was trained is in the folder; the base is named."""
    model = model_of(lora=LoRA(rank=2, alpha=8.0))
    target = save(tmp_path / "m", model, "reference")
    assert {file.name for file in target.iterdir()} == {"README.md", "adapter.safetensors", "head.safetensors", "prefrep.json"}
    loaded = folder.load(target)
    assert scores(loaded) == scores(model)
    assert scores(folder.load(save(tmp_path / "full", loaded))) == pytest.approx(scores(model), abs=1e-4)


def test_all_weights_by_reference(tmp_path: Path) -> None:
    """Full fine-tuning: every trained tensor is there, and none may be missing later."""
    model = model_of()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.1)
    target = save(tmp_path / "m", model, "reference")
    assert scores(folder.load(target)) == scores(model)
    (target / "adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors is missing"):
        folder.load(target)


def test_a_frozen_base_by_reference_holds_the_head_alone(tmp_path: Path) -> None:
    model = model_of(frozen=True)
    target = save(tmp_path / "m", model, "reference")
    assert {file.name for file in target.iterdir()} == {"README.md", "head.safetensors", "prefrep.json"}
    assert scores(folder.load(target)) == scores(model)


def test_a_reference_to_an_exported_folder_is_refused(tmp_path: Path) -> None:
    loaded = folder.load(save(tmp_path / "m", model_of(lora=LoRA(rank=2)), "reference"))
    with pytest.raises(ConfigError, match="save full weights"):
        save(tmp_path / "again", loaded, "reference")
    assert not (tmp_path / "again").exists()


def test_an_adapter_that_does_not_fit(tmp_path: Path) -> None:
    target = save(tmp_path / "m", model_of(lora=LoRA(rank=2)), "reference")
    file = target / "adapter.safetensors"
    state = load_file(file)
    name = min(state)
    for wrong in ({k: v for k, v in state.items() if k != name}, {**state, name: torch.zeros(3, 3)}):
        save_file(wrong, file)
        with pytest.raises(CheckpointError, match="does not fit its base"):
            folder.load(target)


def test_the_type_of_the_weights(tmp_path: Path) -> None:
    """bf16 stays bf16 unless another type is asked for; the head is float32 in any case."""
    target = save(tmp_path / "m", model_of(dtype="bfloat16"))
    assert folder.load(target).backbone.model.dtype == torch.bfloat16
    assert folder.load(target, dtype="float32").backbone.model.dtype == torch.float32
    assert {tensor.dtype for tensor in load_file(target / "head.safetensors").values()} == {torch.float32}


def _edit(**changes: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        about = json.loads((path / "prefrep.json").read_text()) | changes
        (path / "prefrep.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))

    return apply


def _head(state: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(state, path / "head.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda path: (path / "prefrep.json").unlink(), "not an exported preference model"),
        (lambda path: (path / "head.safetensors").unlink(), "head.safetensors is missing"),
        (lambda path: (path / "model.safetensors").unlink(), "cannot load a model"),
        (lambda path: (path / "prefrep.json").write_text('{"format": 1, "hea'), "damaged"),
        (lambda path: (path / "head.safetensors").write_bytes(b"\0" * 20), "does not fit"),
        (_head({"value_head.weight": torch.zeros(2, 32), "skew.prompt_head.weight": torch.zeros(2, 32)}), "does not fit"),
        (_head({"value_head.weight": torch.zeros(4, 32)}), "does not fit"),
        (_head({"value_head.weight": torch.zeros(4, 16), "skew.prompt_head.weight": torch.zeros(2, 16)}), "does not fit"),
        (_edit(format=99), "newer prefrep"),
        (_edit(tau=None), "damaged"),
        (_edit(encode={"unknown": 1}), "damaged"),
        (_edit(head={"class": "NextYearsHead"}), "unknown head"),
        (_edit(head={"class": "GPMHead", "dim": 4}), "damaged"),
        (_edit(head={"class": "BTHead"}), "does not fit"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    target = save(tmp_path / "m", model_of())
    damage(target)
    with pytest.raises(CheckpointError, match=message) as caught:
        folder.load(target)
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)


def test_a_plain_language_model_is_not_an_exported_one(llama: Backbone, tmp_path: Path) -> None:
    llama.model.save_pretrained(tmp_path / "lm")
    with pytest.raises(CheckpointError, match=r"no prefrep\.json"):
        folder.load(tmp_path / "lm")


def test_an_older_folder_is_replaced_and_other_things_are_not(tmp_path: Path) -> None:
    first, second = model_of("bt"), model_of("softmax")
    save(tmp_path / "m", first)
    save(tmp_path / "m", second)
    assert scores(folder.load(tmp_path / "m")) == scores(second)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="would be lost"):
        save(tmp_path / "work", first)
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_a_failure_leaves_the_older_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    save(tmp_path / "m", model)
    monkeypatch.setattr(folder, "describe_head", lambda head: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "m", model_of("bt"))
    monkeypatch.undo()
    assert scores(folder.load(tmp_path / "m")) == scores(model)


def test_what_lies_beside_an_older_model_is_not_lost(tmp_path: Path) -> None:
    model = model_of("bt")
    save(tmp_path / "m", model)
    (tmp_path / "m" / "eval").mkdir()
    (tmp_path / "m" / "eval" / "results.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds other files than a model"):
        save(tmp_path / "m", model)
    assert (tmp_path / "m" / "eval" / "results.json").exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    for kind in ("bt", "softmax"):
        model = model_of(kind)
        save(tmp_path / "m", model)
        assert (tmp_path / "m").is_symlink() and scores(folder.load(tmp_path / "m")) == scores(model)
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["m"]


def test_killed_between_the_old_model_and_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one is found again, also by a call that fails itself."""
    first = model_of("bt")
    save(tmp_path / "m", first)

    def rename(self: Path, target: Path) -> Path:
        if self.name == "m.partial":
            raise KeyboardInterrupt
        return own(self, target)

    own = Path.rename
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "m", model_of("softmax"))
    assert not (tmp_path / "m").exists()
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError), monkeypatch.context() as patched:
        patched.setattr(folder, "describe_head", lambda head: 1 / 0)
        save(tmp_path / "m", model_of("softmax"))
    assert scores(folder.load(tmp_path / "m")) == scores(first)
    save(tmp_path / "m", model_of("softmax"))
    assert {each.name for each in tmp_path.iterdir()} == {"m"}


def test_a_path_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = model_of("bt")
    save(tmp_path / "m", model)
    assert scores(folder.load("~/m")) == scores(model) and Backbone("~/m").hidden_size == model.backbone.hidden_size


def test_a_random_output_layer_is_not_exported(tmp_path: Path) -> None:
    """A classifier has none; what transformers makes up must not look like a trained one to whoever reads the export."""
    config = AutoConfig.from_pretrained(resolve("bundled:tiny-llama"), tie_word_embeddings=False)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "classifier")
    load_tokenizer("bundled:tiny-llama").save_pretrained(tmp_path / "classifier")
    model = model_of("bt", path=str(tmp_path / "classifier"))
    save(tmp_path / "m", model)
    again = folder.load(tmp_path / "m")
    assert scores(again) == pytest.approx(scores(model), abs=1e-5)
    with pytest.raises(CheckpointError, match="no language-model head"):
        again.backbone.check_output()
