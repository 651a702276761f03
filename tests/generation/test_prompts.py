"""What is sampled from and what is scored afterwards are the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.generation import Sampled, TransformersSampler
from prefrep.generation.transformers import _sampled
from prefrep.generation.writing import Written
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Message, Messages
from prefrep.scoring import ranked


def user(text: str) -> Messages:
    return (Message("user", text),)


SHORT, LONG = user("Why?"), (*user("Name a prime number, please."), Message("assistant", "7"), *user("And another one?"))


@pytest.mark.parametrize("template", ["chat", "plain", "auto"])
@pytest.mark.parametrize("prompt", [SHORT, LONG, (Message("system", "Be brief."), *SHORT)])
def test_what_is_scored_begins_with_what_was_sampled_from(family: Backbone, template: Any, prompt: Messages) -> None:
    coder, _ = TransformersSampler(template=template).encoder(family)
    sampled_from = coder.prompts([prompt])[0]
    scored = Encoder(family.tokenizer(), coder.config, "single", policy=True)
    _, datum = next(scored.encode_tables([ranked(prompt, [coder.lead + "7", coder.lead + "Hello there", ""])]))
    assert datum is not None
    for sequence in datum.trees[0].sequences:
        assert sequence[: len(sampled_from)].tolist() == sampled_from.tolist()
    assert datum.trees[0].prompt == len(sampled_from)


def sentencepiece() -> PreTrainedTokenizerBase:
    """A tokenizer as Llama 2 has one: a blank is part of the word behind it, and decoding drops the first one."""
    letters = [chr(code) for code in range(33, 127)]
    merges = [("i", "s"), ("P", "a"), ("Pa", "r"), ("Par", "is"), ("▁", "Paris"), ("▁", "is")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *(a + b for a, b in merges)]
    built = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    built.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("name", ["smollm2-135m", "tiny-llama", "tiny-gpt2", "sentencepiece"])
@pytest.mark.parametrize("text", [" Paris is", " 7", " 1990 is", " \nthe", "  the", " ", "", "\nthe", "Paris", "7", " «é» 😀"])
def test_plain_responses_are_scored_in_the_tokens_that_were_sampled(name: str, text: str) -> None:
    """Whatever follows the colon: a word with its blank, as models write it, or something else."""
    tokenizer = sentencepiece() if name == "sentencepiece" else load_tokenizer(f"bundled:{name}")
    coder = Encoder(tokenizer, EncodeConfig("plain"), "single", policy=True)
    before = "\n\nHuman: Why?\n\nAssistant:"
    sampled_from, whole = (tokenizer(each)["input_ids"] for each in (before, before + text))
    assert whole[: len(sampled_from)] == sampled_from and coder.prompts([SHORT])[0].tolist() == sampled_from
    new, end = whole[len(sampled_from) :], tokenizer.eos_token_id
    written = Written(len(new) + 1, {end}, (0,))
    for token in (*new, end):
        written.append(token, 0.0, 0.0)
    found = _sampled(written, coder, True)
    assert found == Sampled(text.removeprefix(" "), True, " " if text.startswith(" ") else "")
    ((_, datum),) = coder.encode_tables([ranked(SHORT, [found.lead + found.text])])
    assert datum is not None and datum.trees[0].prompt == len(sampled_from)
    assert datum.trees[0].sequences[0].tolist() == [*whole, end]
    if found.lead:  # and a preference model reads what the policy wrote
        ((_, read),) = Encoder(tokenizer, EncodeConfig("plain"), "single").encode_tables([ranked(SHORT, [found.text])])
        assert read is not None and read.trees[0].sequences[0].tolist() == [*whole, end]


def test_a_word_behind_a_plain_prompt_is_one_token() -> None:
    """SmolLM2 has ` Paris` and `Paris`, and only the first can follow a colon."""
    coder = Encoder(load_tokenizer("bundled:smollm2-135m"), EncodeConfig("plain"), "single", policy=True)
    ((_, datum),) = coder.encode_tables([ranked(SHORT, [" Paris", " 7"])])
    assert datum is not None
    first, second = (coder.tokenizer.convert_ids_to_tokens(ids[datum.trees[0].prompt :].tolist()) for ids in datum.trees[0].sequences)
    assert first == ["ĠParis", "<|im_end|>"] and second == ["Ġ", "7", "<|im_end|>"]
