"""Turns of rendered text: what real chat templates write comes back."""

from __future__ import annotations

import pytest

from prefrep.data.rendered import read_turns, split
from prefrep.errors import RecordError
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Message

TURNS = (
    Message("system", "Be brief."),
    Message("user", "Name a prime.\n\nHuman: no, two"),
    Message("assistant", "7"),
    Message("user", "Larger!"),
)
TEMPLATES = {
    "ChatML": ("<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>"),
    "Llama 3": (
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
    ),
    "Gemma": ("<start_of_turn>{role}\n{content}<end_of_turn>\n", "<start_of_turn>model\n", "<end_of_turn>"),
    "Phi": ("<|{role}|>\n{content}<|end|>\n", "<|assistant|>\n", "<|end|><|endoftext|>"),
    "Zephyr": ("<|{role}|>\n{content}</s>\n", "<|assistant|>\n", "</s>"),
}  # fmt: skip


@pytest.mark.parametrize("before", ["", "<s>", "<|begin_of_text|>", "<|endoftext|><|endoftext|>", "<bos>"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_come_back(name: str, before: str) -> None:
    form, generation, end = TEMPLATES[name]
    roles = {"assistant": "model"} if name == "Gemma" else {}
    prompt = "".join(form.format(role=roles.get(turn.role, turn.role), content=turn.content) for turn in TURNS) + generation
    query = before + prompt + "11 is larger.\n\nAnd prime." + end
    assert split(query, prompt, "q") == (TURNS, "11 is larger.\n\nAnd prime.")
    assert split(query, None, "q") == (TURNS, "11 is larger.\n\nAnd prime.")
    assert split(query + "<|endoftext|>" * 9, before + prompt, "q") == (TURNS, "11 is larger.\n\nAnd prime.")
    assert split(prompt, prompt, "q") == (TURNS, ""), "a policy may say nothing"
    assert read_turns(prompt) == (*TURNS, Message("assistant", ""))


def test_the_bundled_models_template_comes_back() -> None:
    tokenizer = load_tokenizer("bundled:smollm2-135m")
    plain = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    prompt = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.decode(tokenizer(prompt + "11<|im_end|>\n")["input_ids"])
    assert split(whole, prompt, "q") == (TURNS, "11")


def test_llama_2_and_deepseek_and_transcripts() -> None:
    turns = (Message("system", "Be brief."), Message("user", "Name a prime"))
    prompt = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nName a prime [/INST]"
    assert split(prompt.replace("<s>[", "<s> [") + " 7</s>", prompt, "q") == (turns, "7"), "decoders insert spaces after special tokens"
    prompt = "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Name a prime<\uff5cAssistant\uff5c>"
    assert split(prompt + "7<\uff5cend\u2581of\u2581sentence\uff5c>", prompt, "q") == (turns[1:], "7")
    prompt = "\n\nHuman: Name a prime\n\nAssistant:"
    assert split(prompt + " 7", prompt, "q") == (turns[1:], "7") == split(prompt + " 7", None, "q")


def test_a_prompt_without_a_template_is_one_user_message() -> None:
    assert split("Name a prime: 7</s></s>", "Name a prime:", "q") == ((Message("user", "Name a prime:"),), "7")


def test_a_prompt_without_a_generation_prompt() -> None:
    prompt = "<|im_start|>user\nName a prime<|im_end|>\n"
    assert split(prompt + "<|im_start|>assistant\n7<|im_end|>", prompt, "q") == ((Message("user", "Name a prime"),), "7")


@pytest.mark.parametrize(("query", "prompt", "sentence"), [
    ("7", None, r"query\[3\]: it comes without its prompt.*; send prompts too, or serve with --rendered"),
    ("7", "Name a prime", r"query\[3\]: it does not begin with its prompt; send the rendered prompt"),
    ("Hello. Name a prime: 7", "Name a prime:", "does not begin with its prompt"),
])  # fmt: skip
def test_what_cannot_be_told_apart(query: str, prompt: str | None, sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        split(query, prompt, "query[3]")
