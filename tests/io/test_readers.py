"""Models of other programs, as those programs read them: peft, OpenRLHF, RLHFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMPARISONS, program
from foreign import RECORDS, adapter, base, openrlhf_folder, turns
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefrep.errors import CheckpointError, ConfigError
from prefrep.io import adapters, folder, openrlhf, rlhflow, seqcls
from prefrep.io.folder import PreferenceModel
from prefrep.io.readers import kind_of
from prefrep.scoring import PairScorer, Scorer

export = program("export")


def ours(model: PreferenceModel) -> list[float]:
    return np.concatenate(list(Scorer(model).rewards(RECORDS))).tolist()


def saved(model: PreferenceModel, path: Path) -> PreferenceModel:
    """The model after an export and a load."""
    folder.save(path, model.backbone, model.head, model.tau, model.encode, model.tokenizer, model.recipe)
    return folder.load(path)


# ---- peft


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "use_dora": True}, {"rank_pattern": {"up_proj": 2}, "lora_alpha": 3}])
def test_adapters_score_as_peft_does(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    expected = adapter(tmp_path / "a", family, **options)
    assert max(expected) - min(expected) > 0.5
    model = adapters.read(tmp_path / "a")
    assert kind_of(str(tmp_path / "a")) == "peft"
    assert ours(model) == pytest.approx(expected, abs=1e-5)
    assert ours(saved(model, tmp_path / "ours")) == pytest.approx(expected, abs=1e-5)
    seqcls.write(tmp_path / "rm", model)
    assert ours(seqcls.read(tmp_path / "rm")) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_without_its_head(tmp_path: Path) -> None:
    """TRL's default for LoRA leaves the head random and does not save it; the head of a base is used where there is one."""
    expected = adapter(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    score = tensors.pop("base_model.model.score.weight")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"random in training; train with modules_to_save"):
        adapters.read(tmp_path / "a")
    model: Any = AutoModelForSequenceClassification.from_pretrained(base("qwen2"), num_labels=1)
    model.score.weight.data = score
    model.save_pretrained(tmp_path / "base")
    about = tmp_path / "a" / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}))
    assert ours(adapters.read(tmp_path / "a")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "a IA3 adapter"),
        ({"init_lora_weights": "pissa"}, "has changed the base"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "/nothing"}, "no such folder"),
        ({"base_model_name_or_path": "gpt2-like"}, "cannot read its config.json"),
        ({"megatron_config": {"x": 1}}, "a LoRA with megatron_config"),
        ({"layer_replication": [[0, 2]]}, "a LoRA with layer_replication"),
        ({"r": 3}, "cannot put the adapter on"),
        ({"target_modules": ["q_proj"]}, "does not fit the base"),
        ({"target_modules": ["q_proj", "up_proj", "k_proj"]}, "does not fit the base"),
        ({"modules_to_save": 5}, "cannot put the adapter on"),
        ({"target_modules": ["nothing"]}, "cannot put the adapter on"),
    ],
)
def test_adapters_that_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    about = tmp_path / "a" / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        adapters.read(tmp_path / "a")


def test_adapters_as_pickles_are_refused_and_exported(tmp_path: Path) -> None:
    expected, weights = adapter(tmp_path / "a"), tmp_path / "a" / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="pickles .* never read"):
        adapters.read(tmp_path / "a")
    assert export(["--from", "peft", "--model", str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 0
    model = folder.load(tmp_path / "out")
    assert ours(model) == pytest.approx(expected, abs=1e-5) and model.recipe["adapter"] == str(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        adapters.read(tmp_path / "a")


# ---- OpenRLHF


@torch.no_grad()
def rewards_by_openrlhf(path: Path, head: torch.Tensor, limit: int = 2048) -> list[float]:
    """Its recipe, one text at a time: no special tokens, line breaks off, an EOS behind a space if there is none, the last token an EOS."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    found = []
    for record in RECORDS:
        for messages in turns(record):
            text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
            text += "" if text.endswith(tokenizer.eos_token) else " " + tokenizer.eos_token
            ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
            ids[0, -1] = tokenizer.eos_token_id
            states = model(ids, output_hidden_states=True).hidden_states[-1]
            found.append(float(states[0, -1] @ head[0]))
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("trailing", ["", "That was all."])
def test_openrlhf(family: str, trailing: str, tmp_path: Path) -> None:
    """A template that ends in the EOS is prefrep's own reading; one that goes on gets a space and an EOS."""
    head = openrlhf_folder(tmp_path / "rm", family, trailing=trailing)
    model = openrlhf.read(tmp_path / "rm")
    assert kind_of(str(tmp_path / "rm")) == "openrlhf"
    assert model.encode.template == ("openrlhf" if trailing else "auto")
    expected = rewards_by_openrlhf(tmp_path / "rm", head)
    assert max(expected) - min(expected) > 0.5
    assert ours(model) == pytest.approx(expected, abs=1e-5)
    assert ours(saved(model, tmp_path / "ours")) == pytest.approx(expected, abs=1e-5)
    seqcls.write(tmp_path / "sc", model)
    assert ours(seqcls.read(tmp_path / "sc")) == pytest.approx(expected, abs=1e-5)


def test_openrlhf_truncates_responses(tmp_path: Path) -> None:
    head = openrlhf_folder(tmp_path / "rm", "llama", trailing="That was all.")
    expected = rewards_by_openrlhf(tmp_path / "rm", head, limit=62)
    assert ours(openrlhf.read(tmp_path / "rm", max_length=62)) == pytest.approx(expected, abs=1e-5)
    assert expected != rewards_by_openrlhf(tmp_path / "rm", head)


def test_openrlhf_with_another_name_of_the_head(tmp_path: Path) -> None:
    head = openrlhf_folder(tmp_path / "rm", "llama", prefix="value_head", value_head_prefix="value_head")
    assert kind_of(str(tmp_path / "rm")) == "openrlhf"
    assert ours(openrlhf.read(tmp_path / "rm")) == pytest.approx(rewards_by_openrlhf(tmp_path / "rm", head), abs=1e-5)
    with pytest.raises(CheckpointError, match=r"has score.weight \[1, 32\], found none"):
        openrlhf.read("bundled:tiny-llama")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    """What an outsider may write into config.json and the index of shards is a sentence, or does not matter."""
    head = openrlhf_folder(tmp_path / "rm", "llama", architectures=[5])
    assert kind_of(str(tmp_path / "rm")) == "openrlhf"
    assert ours(openrlhf.read(tmp_path / "rm")) == pytest.approx(rewards_by_openrlhf(tmp_path / "rm", head), abs=1e-5)
    for index in ("[]", '{"weight_map": 5}', "5"):
        (tmp_path / "rm" / "model.safetensors.index.json").write_text(index)
        with pytest.raises(CheckpointError, match="cannot read its safetensors"):
            kind_of(str(tmp_path / "rm"))


# ---- RLHFlow

PLAIN = (
    "{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}{% else %}\n\n<turn> assistant\n "
    "{{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)


@torch.no_grad()
def logits_by_rlhflow(path: str, prompt: list[dict[str, str]], a: str, b: str) -> float:
    """What its example does for one order: logit(A) - logit(B)."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    plain: Any = AutoTokenizer.from_pretrained(path)
    plain.chat_template = "\n" + PLAIN
    context = plain.apply_chat_template(prompt, tokenize=False)
    asked = [{"role": "user", "content": f"[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False)
    text = text.replace(tokenizer.bos_token, "") if tokenizer.bos_token else text
    logits = model(tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]).logits[0, -1]
    first, second = (tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB")
    return float(logits[first] - logits[second])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_rlhflow(family: str, tmp_path: Path) -> None:
    """Each order as in the published example; the score is the mean of both orders' log-odds."""
    model = rlhflow.read(f"bundled:tiny-{family}")
    scorer = PairScorer(model)
    expected = []
    for pair in COMPARISONS:
        prompt = [{"role": m.role, "content": m.content} for m in pair.prompt]
        chosen, rejected = pair.chosen[0].content, pair.rejected[0].content
        expected.append([logits_by_rlhflow(base(family), prompt, *order) for order in ((chosen, rejected), (rejected, chosen))])
    found = list(scorer.compare_one_order(COMPARISONS))
    assert max(map(abs, found)) > 0.1
    assert found == pytest.approx([first for first, _ in expected], abs=1e-5)
    both = [(first - second) / 2 for first, second in expected]
    assert list(scorer.compare(COMPARISONS)) == pytest.approx(both, abs=1e-5)
    again = PairScorer(saved(model, tmp_path / "ours"))
    assert list(again.compare(COMPARISONS)) == pytest.approx(both, abs=1e-5)
    for (first, second), score in zip(expected, both, strict=True):  # the example averages probabilities: the verdict is the same
        assert (1 / (1 + np.exp(-first)) + 1 / (1 + np.exp(second)) > 1) == (score > 0)


def test_models_that_cannot_answer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="caps its logits"):
        rlhflow.read("bundled:tiny-gemma2")
    openrlhf_folder(tmp_path / "rm", "qwen2")
    with pytest.raises(CheckpointError, match="no language-model head"):
        rlhflow.read(tmp_path / "rm")
    model: Any = AutoModelForCausalLM.from_pretrained(base("llama"))
    model.save_pretrained(tmp_path / "plain")
    tokenizer: Any = AutoTokenizer.from_pretrained(base("llama"))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no chat template"):
        rlhflow.read(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="without a preference head"):
        kind_of(base("llama"))
    with pytest.raises(ConfigError, match="only a pair format"):
        model = rlhflow.read("bundled:tiny-llama")
        model.head = seqcls.BTHead(32)
        Scorer(model)
