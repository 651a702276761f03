"""Token ids of a sequence classifier in transformers and in prefrep, compared on a few conversations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import CheckpointError
from prefrep.records import Message, Messages, RankedResponses

PROBES: tuple[tuple[Messages, Messages], ...] = tuple(
    (tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(prompt)), (Message("assistant", response),))
    for prompt, response in [
        (("Name a prime",), "7"),
        (("  Leading and trailing space ",), " Grüße, 世界 \n\n"),
        (("Hello", "Hello. What can I do?", "Nothing"), "Then\nnot."),
    ]
)


def ours(encoder: Encoder, prompt: Messages, response: Messages) -> list[int]:
    """Return the token ids that the encoder makes of a prompt and a response, untruncated."""
    ((_, datum),) = Encoder(encoder.tokenizer, replace(encoder.config, max_length=2**30), "single").encode_tables(
        [RankedResponses(prompt, (response,))]
    )
    assert datum is not None
    return [int(token) for token in datum.trees[0].sequences[0]]


def _theirs(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not tokenizer.chat_template:
        return list(tokenizer("".join(m.content for m in messages))["input_ids"])
    encoded: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def check_tokenizer(exported: PreTrainedTokenizerBase, encoder: Encoder) -> None:
    """Check that an exported tokenizer gives the token ids of training, with and without special tokens switched on.

    Raises:
        CheckpointError: The ids differ.
    """
    check_rendered(exported, encoder)
    for messages, wanted in _probed(encoder):
        if _theirs(exported, messages) != wanted or exported(_text(exported, messages), add_special_tokens=False)["input_ids"] != wanted:
            raise _differs(encoder)


def check_rendered(exported: PreTrainedTokenizerBase, encoder: Encoder) -> None:
    """Check that an exported tokenizer gives the token ids of training to texts that its chat template has rendered.

    Raises:
        CheckpointError: The ids differ.
    """
    for messages, wanted in _probed(encoder):
        if list(exported(_text(exported, messages))["input_ids"]) != wanted:
            raise _differs(encoder)


def _probed(encoder: Encoder) -> Iterator[tuple[Messages, list[int]]]:
    """Yield conversations, and their ids in training."""
    probes = list(PROBES)
    if encoder.config.template != "chat":
        probes.append(((), (Message("assistant", "A lone text"),)))
    for prompt, response in probes:
        yield prompt + response, ours(encoder, prompt, response)


def _text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    text = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages], tokenize=False)
    assert isinstance(text, str)
    return text


def _differs(encoder: Encoder) -> CheckpointError:
    return CheckpointError(
        f"{encoder.tokenizer.name_or_path}: this tokenizer splits text differently when a template writes BOS and EOS, so a model in this "
        "layout would give other scores; use the exported folder itself (prefrep score, prefrep eval)"
    )


def same_reading(tokenizer: PreTrainedTokenizerBase, encoder: Encoder, pad: int | None) -> bool:
    """Return whether transformers and prefrep read the same token of the same ids.

    Args:
        tokenizer: The tokenizer of the classifier.
        encoder: The encoder of the imported model.
        pad: Pad id of the classifier's configuration, which transformers skips at the end.
    """
    for prompt, response in PROBES[: 3 if tokenizer.chat_template else 2]:
        theirs = _theirs(tokenizer, prompt + response)
        while len(theirs) > 1 and theirs[-1] == pad:
            theirs.pop()
        if theirs != ours(encoder, prompt, response):
            return False
    return True


def as_written(path: str, tokenizer: PreTrainedTokenizerBase, encode: EncodeConfig, pad: int | None) -> EncodeConfig:
    """Return the encoding that reads where transformers does: at the template's last token, or before the EOS if that is the pad token.

    Raises:
        CheckpointError: The tokenizer has no chat template, or prefrep cannot read there.
    """
    if tokenizer.chat_template:
        tokenizer.pad_token = None if pad is None else tokenizer.convert_ids_to_tokens(pad)
        written = replace(encode, template="classifier")
        if same_reading(tokenizer, Encoder(tokenizer, written, "single"), pad):
            return written
    raise CheckpointError(
        f"{path}: transformers does not read its rewards at one final {tokenizer.eos_token!r}, and no chat template says where; add a chat "
        "template to its tokenizer"
    )
