"""Token ids of TRL's four formats, as its reward trainer makes them (TRL 1.16, `RewardTrainer._prepare_dataset`).

Plain texts: prompt and response are concatenated, the EOS is appended unless the text ends with it, and the tokenizer adds its BOS.
Conversations: what the chat template writes, without more special tokens.
"""

from __future__ import annotations

from typing import Any

import pytest

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.formats import to_record
from prefrep.nn.loading import load_tokenizer

TOKENIZERS = ["tiny-llama", "tiny-qwen2", "tiny-gemma2", "tiny-gpt2", "tiny-gpt_neox"]


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


ROWS: dict[str, dict[str, Any]] = {
    "standard-explicit": {"prompt": "Beautiful is better than", "chosen": " ugly.", "rejected": " the moon.<|im_end|>"},
    "standard-implicit": {"chosen": "The sky is blue.", "rejected": " the sky\n"},
    "conversational-explicit": {"prompt": chat("2+2"), "chosen": chat("", "4 ")[1:], "rejected": chat("", "in\n\n")[1:]},
    "conversational-implicit": {"chosen": chat("hi", "the", "2+2", "4"), "rejected": chat("hi", "the", "2+2", "Größe")},
}


def reference(tokenizer: Any, row: dict[str, Any], side: str) -> list[int]:
    whole = row["prompt"] + row[side] if "prompt" in row else row[side]
    if isinstance(whole, list):
        return list(tokenizer.apply_chat_template(whole, tokenize=True, return_dict=True)["input_ids"])
    return list(tokenizer(whole if whole.endswith(tokenizer.eos_token) else whole + tokenizer.eos_token)["input_ids"])


def ours(tokenizer: Any, row: dict[str, Any], format: str, template: str) -> list[list[int]]:
    ((_, datum),) = Encoder(tokenizer, EncodeConfig(template), "single").encode([to_record(row, format, "f:1")])  # type: ignore[arg-type]
    assert datum is not None
    return [ids.tolist() for ids in datum.trees[0].sequences]


@pytest.mark.parametrize("path", TOKENIZERS)
@pytest.mark.parametrize("format", ROWS)
def test_ids_are_those_of_trl(path: str, format: str) -> None:
    """One difference: a response ends in its EOS here. TRL keeps what a template writes after it, such as ChatML's line break."""
    tokenizer = load_tokenizer(f"bundled:{path}")
    row = ROWS[format]
    theirs = [reference(tokenizer, row, side) for side in ("chosen", "rejected")]
    if format.startswith("standard"):
        assert ours(tokenizer, row, format, "concat") == theirs
        return
    for found, expected in zip(ours(tokenizer, row, format, "auto"), theirs, strict=True):
        last = len(expected) - expected[::-1].index(tokenizer.eos_token_id)
        assert found == expected[:last] and tokenizer.decode(expected[last:]) == "\n"


def test_auto_reads_continuations_as_chats() -> None:
    """So a row of texts needs `template: concat`, and the log says how responses were read."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    row = {"prompt": "Beautiful is better than", "chosen": " ugly.", "rejected": " the moon."}
    assert "<|im_start|>user" in tokenizer.decode(ours(tokenizer, row, "standard-explicit", "auto")[0])
    encode = Encoder(tokenizer, EncodeConfig(), "single")
    list(encode.encode([to_record(row, "auto", "f:1")]))
    assert encode.reading() == ("template auto: 2 by the chat template, 2 that begin with a blank (continuations? template: concat)")
