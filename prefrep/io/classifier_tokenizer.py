"""The tokenizer of an exported sequence classifier: its chat template writes all special tokens, its pad token is not the EOS."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig
from prefrep.data.render import NAMES


def classifier_template(tokenizer: PreTrainedTokenizerBase, encode: EncodeConfig, ends: bool = True) -> str:
    """Return a chat template that writes what `Encoder` reads: the original template, or plain text, between one BOS and one EOS.

    Of OpenRLHF's recipe, the original template with an EOS behind a space where it does not end in one.

    Args:
        tokenizer: The original tokenizer.
        encode: How text becomes token ids.
        ends: Write the EOS; else the tokenizer has to add it.
    """
    eos = _quote(tokenizer.eos_token)
    if encode.template == "openrlhf":
        return (
            "{% set body %}" + str(tokenizer.get_chat_template()) + "{% endset %}{% if add_generation_prompt %}{{ body }}{% else %}"
            "{% set text = body.rstrip('\n') %}{% if text.endswith(" + eos + ") %}"
            + ("{{ text }}" if ends else "{{ text[:(text | length) - (" + eos + " | length)] }}")
            + "{% else %}{{ text + ' ' }}" + ("{{ " + eos + " }}" if ends else "") + "{% endif %}{% endif %}"
        )  # fmt: skip
    adds_bos = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    start = "" if adds_bos else _quote(tokenizer.bos_token or tokenizer.eos_token)
    lone = "{{ " + start + " }}" if start else ""
    lone += "{{ messages[0]['content'] }}"
    chat = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    if encode.template == "plain" or not chat:
        body = (
            "{% if messages | length == 1 %}" + lone + "{% else %}{% for message in messages %}"
            "{{ '\\n\\n' + " + repr(NAMES) + ".get(message['role'], message['role']) + ': ' + message['content'] }}{% endfor %}{% endif %}"
        )
        strip = ""
    elif encode.template == "auto":  # a response without a prompt is not a conversation
        body = "{% if messages | length == 1 and not add_generation_prompt %}" + lone + "{% else %}" + chat + "{% endif %}"
        strip = "{% if messages | length > 1 %}{% set ns.text = ns.text.rstrip() %}{% endif %}"
    else:
        body, strip = chat, "{% set ns.text = ns.text.rstrip() %}"
    bos = _quote(tokenizer.bos_token)
    cut_eos = "{% if ns.text.endswith(" + eos + ") %}{% set ns.text = ns.text[:(ns.text | length) - (" + eos + " | length)] %}{% endif %}"
    cut_bos = "{% if ns.text.startswith(" + bos + ") %}{% set ns.text = ns.text[(" + bos + " | length):] %}{% endif %}"
    end = strip + "{% for _ in range(64) %}" + cut_eos + "{% endfor %}" + ("{% set ns.text = ns.text + " + eos + " %}" if ends else "")
    begin = "{% for _ in range(64) %}" + cut_bos + "{% endfor %}{% set ns.text = " + bos + " + ns.text %}" if adds_bos else ""
    return (
        "{% set body %}" + body + "{% endset %}{% set ns = namespace(text=body) %}{% if not add_generation_prompt %}"
        + end + "{% endif %}" + begin + "{{ ns.text }}"
    )  # fmt: skip


def _quote(text: Any) -> str:
    return json.dumps(text, ensure_ascii=False)  # as Jinja reads string literals


def add_nothing(tokenizer: Any) -> None:
    """Stop a tokenizer from adding special tokens, all of which the template writes."""
    for option in ("add_bos_token", "add_eos_token"):
        if getattr(tokenizer, option, None):
            setattr(tokenizer, option, False)
    if tokenizer("")["input_ids"]:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])


def choose_pad(tokenizer: Any, chat_template: str, rows: int) -> None:
    """Set a pad token other than the EOS.

    Padding is masked, so any id gives equal scores unless it is read. But some programs treat every occurrence of the pad id as padding, so
    prefer a special token that does not occur in texts. Otherwise add a token, in a spare row of the embeddings or a new one.

    Args:
        tokenizer: The tokenizer, changed in place.
        chat_template: The original chat template, whose tokens are in use.
        rows: Number of rows of the embeddings.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return
    special = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special and number < rows}
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    unused = [name for name, number in special.items() if number not in taken and name not in chat_template]
    likely = [name for word in ("pad", "reserved", "unused", "extra") for name in unused if word in name.lower()]
    if likely or unused:
        tokenizer.pad_token = (likely or unused)[0]
        return
    name = "<|pad|>"
    while tokenizer.convert_tokens_to_ids(name) not in (None, tokenizer.unk_token_id):
        name = name.replace("<|", "<|_")
    tokenizer.add_special_tokens({"pad_token": name})
