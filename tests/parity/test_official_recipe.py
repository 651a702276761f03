"""Scores in the official layout and recipe, against that recipe written out slowly: one padded batch, a mask, loops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from prefrep.io import official
from prefrep.nn.bundled import resolve
from prefrep.records import Comparison, Message
from prefrep.scoring import Scorer

Samples = list[tuple[tuple[str, ...], str, str]]  # turns of the prompt, chosen response, rejected response

TAU = 0.1
LONG = "and so on, " * 30
SAMPLES: dict[str, Samples] = {
    "single turn": [
        (("Name a prime",), "7", "9"),
        (("Why does it rain in the mountains?",), "Clouds rise, cool and let go of their water.", "It does not."),
        (("Empty answer",), "", "Something"),
    ],
    "multi turn": [
        (("Hello", "Hello, what can I do?", "Name a colour"), "Red.", "Seven, or perhaps eight."),
        (("system: Be brief", "How are you?"), "Well.", "Very well indeed, thank you for asking."),
    ],
    "too long": [
        (("Go on",), "First " + LONG, "Second " + LONG),
        (("Go on", "Yes", "Further"), LONG + "a", "short"),
        (("A question without an end " + LONG,), "7", "9"),
    ],
}


def checkpoint(family: str, folder: Path, dim: int, gated: bool) -> Path:
    """A random checkpoint as the official code would leave it; heads wide enough that no score is near zero by accident."""
    shutil.copytree(resolve(f"bundled:tiny-{family}"), folder)
    state = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(dim)
    state["value_head.weight"] = torch.randn(dim, 32, generator=generator)
    if gated:
        state["prompt_head.weight"] = torch.randn(dim // 2, 32, generator=generator) / 2
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["CustomRewardModel"]}))
    return folder


def conversation(prompt: tuple[str, ...], response: str) -> list[dict[str, str]]:
    """Turns of a conversation; a first one that begins with `system: ` is the system's."""
    turns = []
    for text in prompt:
        if text.startswith("system: "):
            turns.append({"role": "system", "content": text.removeprefix("system: ")})
        else:
            said = sum(turn["role"] != "system" for turn in turns)
            turns.append({"role": "assistant" if said % 2 else "user", "content": text})
    return [*turns, {"role": "assistant", "content": response}]


@torch.no_grad()
def recipe(folder: Path, samples: Samples, max_length: int, normalize: bool = True) -> list[float]:
    """The official inference, all chosen and rejected responses in one left-padded batch.

    Double BOS (rendered text, tokenised with special tokens), truncation on the right, the last column overwritten by EOS and attended to,
    positions by the running sum of the mask, the gate's state at T - response - 1 in the chosen row, where the prompt is the first message.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="right")
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    weights = load_file(folder / "model.safetensors")
    value, gate = weights["value_head.weight"], weights.get("prompt_head.weight")
    conversations = [conversation(prompt, answer) for prompt, *answers in samples for answer in answers]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
    firsts = [tokenizer.apply_chat_template(turns[:1], tokenize=False) for turns in conversations]
    batch = tokenizer(texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ids[:, -1], mask[:, -1] = tokenizer.eos_token_id, 1
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    states = model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    scores = []
    for chosen in range(0, len(texts), 2):
        v_chosen, v_rejected = value @ states[chosen, -1], value @ states[chosen + 1, -1]
        if normalize:
            v_chosen, v_rejected = v_chosen / v_chosen.norm(), v_rejected / v_rejected.norm()
        whole, first = (len(tokenizer(t[chosen], truncation=True, max_length=max_length)["input_ids"]) for t in (texts, firsts))
        if gate is None:
            blocks = torch.ones(len(value) // 2)
        else:
            blocks = torch.softmax(gate @ states[chosen, ids.shape[1] - (whole - first) - 1], -1)
        operator = torch.zeros(len(value), len(value))
        for block, weight in enumerate(blocks.tolist()):
            operator[2 * block, 2 * block + 1], operator[2 * block + 1, 2 * block] = -weight, weight
        scores.append(float((operator @ v_chosen) @ v_rejected) / TAU)
    return scores


def records(samples: Samples) -> list[Comparison]:
    found = []
    for prompt, chosen, rejected in samples:
        *before, last = (Message(turn["role"], turn["content"]) for turn in conversation(prompt, chosen))
        found.append(Comparison(tuple(before), (last,), (Message("assistant", rejected),)))
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(("dim", "gated"), [(6, True), (4, False)])
def test_scores_are_those_of_the_official_recipe(family: str, kind: str, dim: int, gated: bool, tmp_path: Path) -> None:
    folder = checkpoint(family, tmp_path / "gpm", dim, gated)
    samples, max_length = SAMPLES[kind], 60 if kind == "too long" else 4096
    expected = recipe(folder, samples, max_length)
    gate = "softmax" if gated else "none"
    model = official.read(folder, tau=TAU, normalize=True, gate=gate, template="official", max_length=max_length)  # type: ignore[arg-type]
    for layout in ("trees", "padded"):
        scores = list(Scorer(model, layout=layout).compare(records(samples)))  # type: ignore[arg-type]
        assert scores == pytest.approx(expected, abs=1e-4)
    # A prompt that fills the whole length leaves two equal sequences, a tie; every other score is large beside the tolerance.
    assert [abs(score) > 1e-2 for score in expected] == [kind != "too long" or i < 2 for i in range(len(samples))]


def test_the_recipe_is_not_the_projects_own(tmp_path: Path) -> None:
    """Two BOS, and an EOS in place of the template's last newline: policies differ in their scores, so equality above means something."""
    folder = checkpoint("llama", tmp_path / "gpm", 6, True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(conversation(("Hello",), "Bye"), tokenize=False)
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    expected = recipe(folder, SAMPLES["single turn"], 4096)
    own = official.read(folder, tau=TAU, normalize=True, gate="softmax", template="auto")
    scores = list(Scorer(own).compare(records(SAMPLES["single turn"])))
    assert max(abs(a - b) for a, b in zip(scores, expected, strict=True)) > 0.05


def test_unnormalised_scores(tmp_path: Path) -> None:
    folder = checkpoint("llama", tmp_path / "gpm", 4, True)
    expected = recipe(folder, SAMPLES["single turn"], 4096, normalize=False)
    model = official.read(folder, tau=TAU, normalize=False, gate="softmax", template="official")
    assert list(Scorer(model).compare(records(SAMPLES["single turn"]))) == pytest.approx(expected, abs=1e-5 * max(map(abs, expected)))
