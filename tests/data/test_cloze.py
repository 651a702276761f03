"""Instructions with a mask token: where they stand, and that no truncation takes them."""

from __future__ import annotations

from typing import Any, Literal

import encoders
import pytest

from prefrep.data.cloze import check_instruction
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import ConfigError
from prefrep.records import Comparison, Message

ASKED = "\nA good answer? [MASK]"
LONG = Comparison((Message("user", "why " * 30),), (Message("assistant", "so " * 40),), (Message("assistant", "no [MASK]"),))


def tokenizer() -> Any:
    """As a backbone gives it: texts end in its separator."""
    words: Any = encoders.tokenizer()
    words.bos_token, words.eos_token = words.cls_token, words.sep_token
    return words


@pytest.mark.parametrize("layout", ["single", "pair"])
@pytest.mark.parametrize("limit", [1000, 200])
@pytest.mark.parametrize("mask", ["[MASK]", "<mask>"])
def test_texts_end_in_the_instruction_however_long_they_are(layout: Literal["single", "pair"], limit: int, mask: str) -> None:
    words = tokenizer()
    if mask != "[MASK]":
        words.add_special_tokens({"mask_token": mask})
    ((_, with_it),) = Encoder(words, EncodeConfig("plain", limit, instruction=ASKED), layout).encode([LONG])
    end = [*words(ASKED.replace("[MASK]", mask), add_special_tokens=False)["input_ids"], words.sep_token_id]
    shorter = limit - len(end) + 1
    ((_, without),) = Encoder(words, EncodeConfig("plain", shorter), layout).encode([LONG])
    assert with_it is not None and without is not None
    for tree, plain in zip(with_it.trees, without.trees, strict=True):
        assert tree.prompt == plain.prompt
        for ids, rest in zip(tree.sequences, plain.sequences, strict=True):
            assert ids.tolist() == [*(rest[:-1] if rest[-1] == words.sep_token_id else rest).tolist(), *end][: len(ids)]
            assert len(ids) <= limit and ids.tolist().count(words.mask_token_id) == 1, "a mask that a text spells out is text"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (EncodeConfig(instruction="A good answer?"), r"must hold one \[MASK\]"),
        (EncodeConfig(instruction="[MASK] or [MASK]"), r"must hold one \[MASK\]"),
        (EncodeConfig(instruction=ASKED, max_length=20), "leaves no room beside an instruction of 17 tokens"),
        (EncodeConfig("segments", instruction=ASKED), "takes no instruction"),
    ],
)
def test_what_cannot_be_asked(config: EncodeConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Encoder(tokenizer(), config, "single")


def test_a_tokenizer_without_a_mask() -> None:
    words = tokenizer()
    words.mask_token = None
    with pytest.raises(ConfigError, match="has no mask token"):
        Encoder(words, EncodeConfig(instruction=ASKED), "single")


def test_a_mask_needs_an_instruction_and_an_instruction_a_mask() -> None:
    check_instruction("mask", ASKED)
    check_instruction("first", "")
    for pooling, instruction in (("mask", ""), ("first", ASKED)):
        with pytest.raises(ConfigError, match="give both"):
            check_instruction(pooling, instruction)
