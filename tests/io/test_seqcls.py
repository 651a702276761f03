"""Bradley-Terry models as sequence classifiers: transformers itself is the judge."""

from __future__ import annotations

import json
import string
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMPARISONS, program
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io import folder, seqcls
from prefrep.io.folder import PreferenceModel
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, PairHead
from prefrep.nn.lora import LoRA
from prefrep.records import Message, RankedResponses
from prefrep.scoring import Scorer, ranked

export = program("export")

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma2")

RECORDS = [
    ranked("Name a prime", ["7", "9", "Seven is one, and so are eleven and thirteen. \n"]),
    ranked((Message("user", "Hello"), Message("assistant", "Hello!"), Message("user", "And now?")), ["Nothing.", "the thing, running on"]),
    ranked("Ends in EOS", ["fine<|im_end|>", "fine"]),
]


def model_of(family: str, tau: float = 0.5, tokenizer: Any = None, **encode: Any) -> PreferenceModel:
    backbone = Backbone(f"bundled:tiny-{family}").eval()
    torch.manual_seed(1)
    head = BTHead(backbone.hidden_size)
    torch.nn.init.normal_(head.value_head.weight, std=0.5)
    return PreferenceModel(backbone, head, tau, EncodeConfig(**encode), tokenizer or backbone.tokenizer(), {})


def conversations(records: list[RankedResponses] = RECORDS) -> list[list[dict[str, str]]]:
    whole = [record.prompt + response for record in records for response in record.responses]
    return [[{"role": message.role, "content": message.content} for message in messages] for messages in whole]


@torch.no_grad()
def rewards_by_transformers(path: Path, side: str, texts: list[list[dict[str, str]]]) -> torch.Tensor:
    """What a user of the folder gets: one batch of all conversations."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    inputs: Any = tokenizer.apply_chat_template(texts, padding=True, padding_side=side, return_tensors="pt", return_dict=True)
    # GPT-2 counts positions from the beginning of the row unless it is told better.
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**inputs, position_ids=positions).logits[:, 0]


def ours(model: PreferenceModel, records: list[RankedResponses] = RECORDS) -> list[float]:
    return np.concatenate(list(Scorer(model).rewards(records))).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_transformers_gives_our_rewards(family: str, template: str, tmp_path: Path) -> None:
    """Rewards are divided by tau: a difference of logits is a log-odds. In qwen2, gpt2 and gpt_neox pad == eos before the export."""
    model = model_of(family, template=template)
    seqcls.write(tmp_path / "rm", model)
    expected = ours(model)
    assert max(expected) - min(expected) > 0.5
    for side in ("left", "right"):
        assert rewards_by_transformers(tmp_path / "rm", side, conversations()).tolist() == pytest.approx(expected, abs=1e-4)
    first = Scorer(model).table("Name a prime", ["7", "9"])[0, 1]
    assert first == pytest.approx(expected[0] - expected[1], abs=1e-4)


def test_pad_equal_to_eos_would_change_rewards(tmp_path: Path) -> None:
    """The trap this module is about: with the tokenizer's own pad token, transformers reads one token too early."""
    model = model_of("gpt2")
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id
    seqcls.write(tmp_path / "rm", model)
    file = tmp_path / "rm" / "config.json"
    config = json.loads(file.read_text())
    assert config["pad_token_id"] != model.tokenizer.eos_token_id
    file.write_text(json.dumps(config | {"pad_token_id": model.tokenizer.eos_token_id}))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "rm")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "rm")
    wrong = rewards_by_transformers(tmp_path / "rm", "right", conversations())
    assert (wrong - torch.tensor(ours(model))).abs().max() > 0.05
    assert ours(seqcls.read(tmp_path / "rm")) == pytest.approx(wrong.tolist(), abs=1e-4)  # whoever trained it so is scored so


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rendered_text_may_be_tokenised_with_or_without_special_tokens(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    seqcls.write(tmp_path / "rm", model)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "rm")
    for turns in conversations():
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        with_, without = (tokenizer(text, add_special_tokens=on)["input_ids"] for on in (True, False))
        assert with_ == without == list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
        assert with_[-1] == tokenizer.eos_token_id != with_[-2]
        if tokenizer.bos_token:
            assert with_[0] == tokenizer.bos_token_id != with_[1]
    asked = tokenizer.apply_chat_template(conversations()[0][:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("<|im_start|>assistant\n")


def test_lone_texts(tmp_path: Path) -> None:
    """Records without a prompt are plain text under `auto`."""
    records = [RankedResponses((), ((Message("assistant", "A text"),), (Message("assistant", "Another text, longer"),)))]
    for family in ("llama", "gpt2"):
        model = model_of(family)
        seqcls.write(tmp_path / family, model)
        got = rewards_by_transformers(tmp_path / family, "right", conversations(records))
        assert got.tolist() == pytest.approx(ours(model, records), abs=1e-4)


def test_the_pad_token_is_an_unused_one(tmp_path: Path) -> None:
    """A special token that texts do not hold; the embeddings keep their size."""
    for family in ("llama", "qwen2"):
        model = model_of(family)
        seqcls.write(tmp_path / family, model)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / family)
        kept: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / family)
        assert tokenizer.pad_token == {"llama": "<pad>", "qwen2": "<|endoftext|>"}[family]
        assert kept.get_input_embeddings().weight.shape == model.backbone.model.get_input_embeddings().weight.shape
        assert kept.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("spare", [0, 5])
def test_a_new_pad_token_takes_a_spare_row_if_there_is_one(spare: int, tmp_path: Path) -> None:
    model = model_of("gpt2")
    rows = len(model.tokenizer) + spare
    model.backbone.model.resize_token_embeddings(rows, mean_resizing=False)
    seqcls.write(tmp_path / "rm", model)
    exported: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert exported.config.pad_token_id == len(model.tokenizer)
    assert exported.get_input_embeddings().weight.shape[0] == exported.config.vocab_size == (rows if spare else rows + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family: str, tmp_path: Path) -> None:
    """Export, import, save as an exported folder, load: rewards stay what they were."""
    model = model_of(family)
    expected = ours(model)
    seqcls.write(tmp_path / "rm", model)
    again = seqcls.read(tmp_path / "rm")
    assert again.tau == 1.0
    assert ours(again) == pytest.approx(expected, abs=1e-4)
    folder.save(tmp_path / "ours", again.backbone, again.head, again.tau, again.encode, again.tokenizer, again.recipe)
    assert ours(folder.load(tmp_path / "ours")) == pytest.approx(expected, abs=1e-4)
    comparisons = list(Scorer(model).compare(COMPARISONS))
    assert list(Scorer(again).compare(COMPARISONS)) == pytest.approx(comparisons, abs=1e-4)


def test_lora_is_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = Backbone("bundled:tiny-qwen2", lora=LoRA(rank=2)).eval()
    for name, parameter in backbone.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model = model_of("qwen2")
    plain = ours(model)
    adapted = PreferenceModel(backbone, model.head, model.tau, model.encode, model.tokenizer, {})
    seqcls.write(tmp_path / "rm", adapted)
    expected = ours(adapted)
    assert max(abs(a - b) for a, b in zip(expected, plain, strict=True)) > 0.1
    assert rewards_by_transformers(tmp_path / "rm", "right", conversations()).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("head", [PairHead, GPMHead, partial(GPMHead, dim=4)])
def test_models_that_compare_are_refused(head: Any, tmp_path: Path) -> None:
    model = model_of("llama")
    model.head = head(model.backbone.hidden_size)
    with pytest.raises(ConfigError, match="only BTHead"):
        seqcls.write(tmp_path / "rm", model)
    assert not (tmp_path / "rm").exists()


def test_a_tokenizer_that_cannot_follow_is_refused(tmp_path: Path) -> None:
    """One that marks the beginning of a text splits it otherwise once a template writes the BOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    model = model_of("llama")
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", "▁", *string.ascii_lowercase])}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with pytest.raises(CheckpointError, match="splits text differently"):
        seqcls.write(tmp_path / "rm", model)
    assert not (tmp_path / "rm").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a sequence classifier"):
        seqcls.read("bundled:tiny-llama")
    with pytest.raises(CheckpointError, match="no such folder"):
        seqcls.read(tmp_path / "nothing")
    model = model_of("llama")
    seqcls.write(tmp_path / "rm", model)
    (tmp_path / "rm" / "model.safetensors").rename(tmp_path / "rm" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles .* are never read"):
        seqcls.read(tmp_path / "rm")
    config = AutoConfig.from_pretrained(tmp_path / "rm", num_labels=2)
    two: Any = AutoModelForSequenceClassification.from_config(config)
    two.save_pretrained(tmp_path / "two")
    model.tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(CheckpointError, match=r"\[2, 32\]"):
        seqcls.read(tmp_path / "two")


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>", None])
def test_foreign_folders_are_read_where_transformers_reads_them(pad: str | None, tmp_path: Path) -> None:
    """A template that goes on after the EOS: a line break is read, whichever the pad token is; it survives export and import."""
    model = model_of("qwen2")
    seqcls.write(tmp_path / "rm", model)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "rm")
    tokenizer.chat_template = model.tokenizer.chat_template
    tokenizer.pad_token = pad or "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path / "rm")
    file = tmp_path / "rm" / "config.json"
    number = None if pad is None else tokenizer.convert_tokens_to_ids(pad)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": number}))
    if pad is None:  # transformers takes no batch then
        expected = [rewards_by_transformers(tmp_path / "rm", "right", [turns]).item() for turns in conversations()]
    else:
        expected = rewards_by_transformers(tmp_path / "rm", "right", conversations()).tolist()
    again = seqcls.read(tmp_path / "rm")
    assert again.encode.template == "classifier"
    assert ours(again) == pytest.approx(expected, abs=1e-4)
    folder.save(tmp_path / "ours", again.backbone, again.head, again.tau, again.encode, again.tokenizer, again.recipe)
    assert ours(folder.load(tmp_path / "ours")) == pytest.approx(expected, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(expected, ours(model), strict=True)) > 0.05


def test_a_foreign_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    """Its texts end in no EOS, and nothing says how they are made."""
    model = model_of("qwen2")
    seqcls.write(tmp_path / "rm", model)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "rm")
    tokenizer.chat_template = None
    (tmp_path / "rm" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(tmp_path / "rm")
    with pytest.raises(CheckpointError, match="no chat template"):
        seqcls.read(tmp_path / "rm")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of("gpt2")
    folder.save(tmp_path / "a", model.backbone, model.head, model.tau, model.encode, model.tokenizer, {})
    assert export(["--model", str(tmp_path / "a"), "--to", "seqcls", "--out", str(tmp_path / "b")]) == 0
    assert export(["--model", str(tmp_path / "b"), "--from", "seqcls", "--out", str(tmp_path / "c")]) == 0
    assert ours(folder.load(tmp_path / "c")) == pytest.approx(ours(model), abs=1e-4)
    assert "README.md" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="would replace"):
        export(["--model", str(tmp_path / "a"), "--to", "seqcls", "--out", str(tmp_path / "b" / ".." / "a")])


@pytest.mark.parametrize(("family", "shifts"), [("gpt2", True), ("llama", False)])
def test_the_readme_warns_of_learned_positions(family: str, shifts: bool, tmp_path: Path) -> None:
    seqcls.write(tmp_path / "rm", model_of(family))
    assert ("Pad on the right" in (tmp_path / "rm" / "README.md").read_text()) == shifts
