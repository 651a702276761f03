"""Odd conversations under many templates: a difference between two responses is rendered, or the row says why it is not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from data.chat_templates import TEMPLATES

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.formats import to_record
from prefrep.errors import RecordError
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Comparison, Message

Turn = dict[str, Any]


def user(content: Any = "q", **more: Any) -> Turn:
    return {"role": "user", "content": content, **more}


def bot(content: Any = "a", **more: Any) -> Turn:
    return {"role": "assistant", "content": content, **more}


def turn(role: str, content: Any, **more: Any) -> Turn:
    return {"role": role, "content": content, **more}


def call(name: str = "f", arguments: Any = None, content: Any = None) -> Turn:
    return bot(content, tool_calls=[{"type": "function", "function": {"name": name, "arguments": arguments or {}}}])


TOOLS = [{"type": "function", "function": {"name": "f", "description": "finds", "parameters": {"type": "object", "properties": {}}}}]
TWO = bot("", tool_calls=[*call("f")["tool_calls"], *call("g")["tool_calls"]])
SEEN = [user(), call("f"), turn("tool", "42", tool_call_id="1", name="f")]

# Name: prompt, chosen, rejected (turns), other columns of the row.
ODD: dict[str, tuple[list[Turn], list[Turn], list[Turn], dict[str, Any]]] = {
    "plain": ([user()], [bot("a")], [bot("b")], {}),
    "called function": ([user()], [call("f")], [call("g")], {}),
    "arguments": ([user()], [call("f", {"x": 1})], [call("f", {"x": 2})], {}),
    "arguments as text": ([user()], [call("f", '{"x": 1}')], [call("f", '{"x": 2}')], {}),
    "arguments that are no json": ([user()], [call("f", "x=1")], [call("f", "x=2")], {}),
    "nested arguments": ([user()], [call("f", {"x": {"y": [1, 2]}})], [call("f", {"x": {"y": [1, 3]}})], {}),
    "call or text": ([user()], [call("f")], [bot("I cannot")], {}),
    "call or nothing": ([user()], [call("f")], [bot("")], {}),
    "two calls or one": ([user()], [TWO], [call("f")], {}),
    "order of calls": ([user()], [TWO], [{**TWO, "tool_calls": TWO["tool_calls"][::-1]}], {}),
    "call beside text": ([user()], [call("f", content="let me see")], [call("g", content="let me see")], {}),
    "call beside other text": ([user()], [call("f", content="first")], [call("f", content="second")], {}),
    "tools": ([user()], [call("f")], [call("g")], {"tools": TOOLS}),
    "tools and text": ([user()], [bot("a")], [bot("b")], {"tools": TOOLS}),
    "tools as json": ([user()], [bot("a")], [bot("b")], {"tools": '[{"type": "function", "function": {"name": "f"}}]'}),
    "tools and system": ([turn("system", "s"), user()], [bot("a")], [bot("b")], {"tools": TOOLS}),
    "result in the prompt": (SEEN, [bot("It is 42")], [bot("It is 41")], {}),
    "result in the prompt, with tools": (SEEN, [bot("42")], [bot("41")], {"tools": TOOLS}),
    "trajectory": ([user()], [call("f"), turn("tool", "42"), bot("42")], [call("g"), turn("tool", "42"), bot("42")], {}),
    "trajectory's result": ([user()], [call("f"), turn("tool", "1"), bot("x")], [call("f"), turn("tool", "2"), bot("x")], {}),
    "trajectory's end": ([user()], [call("f"), turn("tool", "1"), bot("x")], [call("f"), turn("tool", "1"), bot("y")], {}),
    "legacy function call": ([user()], [bot(None, function_call={"name": "f"})], [bot(None, function_call={"name": "g"})], {}),
    "tool responses": ([user()], [bot("", tool_responses=[1])], [bot("", tool_responses=[2])], {}),
    "reasoning": ([user()], [bot("a", reasoning_content="x")], [bot("a", reasoning_content="y")], {}),
    "reasoning and answer": ([user()], [bot("a", reasoning_content="x")], [bot("b", reasoning_content="y")], {}),
    "reasoning on one side": ([user()], [bot("a", reasoning_content="x")], [bot("a")], {}),
    "thinking part": (
        [user()], [bot([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "a"}])],
        [bot([{"type": "thinking", "thinking": "y"}, {"type": "text", "text": "a"}])], {},
    ),
    "thoughts": ([user()], [bot("<think>x</think>a")], [bot("<think>y</think>a")], {}),
    "thoughts and answer": ([user()], [bot("<think>x</think>a")], [bot("<think>y</think>b")], {}),
    "thoughts on one side": ([user()], [bot("<think>x</think>a")], [bot("a")], {}),
    "thoughts that do not end": ([user()], [bot("<think>x")], [bot("<think>y")], {}),
    "empty thoughts": ([user()], [bot("<think></think>a")], [bot("a")], {}),
    "earlier thoughts": ([user(), bot("<think>old</think>x"), user("more")], [bot("a")], [bot("b")], {}),
    "earlier reasoning": ([user(), bot("x", reasoning_content="old"), user("more")], [bot("a")], [bot("b")], {}),
    "thoughts before a later turn": (
        [user()], [bot("<think>x</think>a"), user("and?"), bot("c")], [bot("<think>y</think>a"), user("and?"), bot("c")], {},
    ),
    "thinking off": ([user()], [bot("a")], [bot("b")], {"chat_template_kwargs": {"enable_thinking": False}}),
    "thinking off, as json": ([user()], [bot("a")], [bot("b")], {"chat_template_kwargs": '{"enable_thinking": false}'}),
    "unknown argument": ([user()], [bot("a")], [bot("b")], {"chat_template_kwargs": {"colour": "red"}}),
    "developer": ([turn("developer", "be kind"), user()], [bot("a")], [bot("b")], {}),
    "system": ([turn("system", "be kind"), user()], [bot("a")], [bot("b")], {}),
    "two systems": ([turn("system", "be kind"), turn("system", "be brief"), user()], [bot("a")], [bot("b")], {}),
    "system in the middle": ([user(), bot("x"), turn("system", "be brief"), user("more")], [bot("a")], [bot("b")], {}),
    "system in the response": ([user()], [bot("a"), turn("system", "x"), bot("c")], [bot("a"), turn("system", "y"), bot("c")], {}),
    "system only": ([turn("system", "write")], [bot("a")], [bot("b")], {}),
    "system column": ([user()], [bot("a")], [bot("b")], {"system": "be kind"}),
    "unknown role": ([user(), turn("critic", "bad")], [bot("a")], [bot("b")], {}),
    "unknown role in the response": ([user()], [bot("a"), turn("critic", "x"), bot("c")], [bot("a"), turn("critic", "y"), bot("c")], {}),
    "names": ([user(name="Ann")], [bot("a", name="x")], [bot("b", name="x")], {}),
    "names differ": ([user()], [bot("a", name="x")], [bot("a", name="y")], {}),
    "two users in a row": ([user(), user("more")], [bot("a")], [bot("b")], {}),
    "two answers in a row": ([user()], [bot("a"), bot("b")], [bot("a"), bot("c")], {}),
    "answer first": ([bot("hello"), user()], [bot("a")], [bot("b")], {}),
    "empty turn": ([user(), bot(""), user("more")], [bot("a")], [bot("b")], {}),
    "empty user": ([user("")], [bot("a")], [bot("b")], {}),
    "empty response": ([user()], [bot("a")], [bot("")], {}),
    "blanks": ([user()], [bot("a ")], [bot("a")], {}),
    "blanks inside": ([user()], [bot("a  b")], [bot("a b")], {}),
    "parts": ([user([{"type": "text", "text": "q"}, {"type": "text", "text": "r"}])], [bot([{"text": "a"}])], [bot("b")], {}),
    "more turns": ([user()], [bot("a"), user("and?"), bot("c")], [bot("a"), user("and?"), bot("d")], {}),
    "more turns on one side": ([user()], [bot("a"), user("and?"), bot("c")], [bot("a")], {}),
    "another question": ([user()], [bot("a"), user("x?"), bot("c")], [bot("a"), user("y?"), bot("c")], {}),
    "control tokens": ([user("x<|im_end|>\n<|im_start|>assistant\ny")], [bot("a<|im_end|>")], [bot("b")], {}),
    "braces": ([user("{{ 7 * 7 }}{% raw %}")], [bot("{{ messages }}")], [bot("{# b #}")], {}),
    "private characters": ([user("\ue0000r\ue001")], [bot("\ue000x")], [bot("\ue001x")], {}),
    "equal": ([user()], [bot("a")], [bot("a")], {}),
}  # fmt: skip


def encoded(name: str, template: str) -> tuple[Comparison, Encoder, list[list[int]]]:
    prompt, chosen, rejected, more = ODD[name]
    record = to_record({"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}, "conversational-explicit", "f:1")
    tokenizer = load_tokenizer("bundled:tiny-qwen2")
    tokenizer.chat_template = TEMPLATES[template]
    encode = Encoder(tokenizer, EncodeConfig(), "single")
    ((_, datum),) = encode.encode([record])
    assert datum is not None and isinstance(record, Comparison)
    return record, encode, [ids.tolist() for ids in datum.trees[0].sequences]


def essence(messages: tuple[Message, ...]) -> list[Any]:
    return [(message.role, message.content.strip(), dict(message.fields)) for message in messages]


def test_there_are_sixty() -> None:
    assert len(ODD) >= 60


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_difference_is_lost_in_silence(name: str, template: str) -> None:
    try:
        record, encode, (chosen, rejected) = encoded(name, template)
    except RecordError as error:
        assert str(error).startswith("f:1: ") and "\n" not in str(error) and error.remedy
        return
    if name == "control tokens":  # the end of a response is written by the template
        assert encode.counts["with control tokens in a text"] == 1
    if essence(record.chosen) != essence(record.rejected):
        assert chosen != rejected
    elif name == "equal":
        assert chosen == rejected
    read = encode.tokenizer.decode(chosen)
    left_out = {event: count for event, count in encode.events.items() if "left out" in event or "without effect" in event}
    for message in (*record.prompt, *record.chosen):
        parts = re.split("</?think>", message.content.removesuffix("<|im_end|>"))
        assert all(part.strip() in read for part in parts) or left_out, "what the template drops of the conversation is counted"
        for key, value in message.fields.items():
            assert left_out or str(value) in read or key == "tool_calls"


SHOWN, LEFT_OUT, REFUSED = "shown", "leaves out|only a chat template can show", "the tokenizer's chat template refuses it"


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        (
            "called function",
            {"chatml": LEFT_OUT, "llama3": SHOWN, "qwen3": SHOWN, "gemma": LEFT_OUT, "mistral": LEFT_OUT, "none": LEFT_OUT},
        ),
        ("two calls or one", {"llama3": REFUSED, "qwen3": SHOWN, "chatml": LEFT_OUT}),
        ("call beside other text", {"llama3": "render alike, since the template leaves out the contents", "qwen3": SHOWN}),
        ("tools", {"chatml": LEFT_OUT, "llama3": SHOWN, "qwen3": SHOWN}),
        ("tools and text", {"chatml": "leaves out the list of tools", "gemma": "leaves out the list of tools", "none": "it has tools"}),
        (
            "reasoning",
            {"chatml": "render alike, since the template leaves out 'reasoning_content'", "qwen3": SHOWN, "none": "render alike"},
        ),
        ("reasoning and answer", {"chatml": SHOWN, "qwen3": SHOWN, "none": SHOWN}),
        ("thoughts", {"chatml": SHOWN, "qwen3": SHOWN, "none": SHOWN}),
        ("thoughts before a later turn", {"chatml": SHOWN, "qwen3": "render alike, since the template leaves out the thoughts"}),
        ("system", {"gemma": REFUSED, "chatml": SHOWN}),
        ("system in the response", {"mistral": "render alike, since the template leaves out the contents", "chatml": SHOWN}),
        ("unknown role in the response", {"qwen3": "render alike", "chatml": SHOWN, "none": SHOWN}),
        ("names differ", {"chatml": "render alike, since the template leaves out 'name'", "none": "leaves out 'name'"}),
        ("two answers in a row", {"gemma": REFUSED, "chatml": SHOWN}),
        ("blanks", {"llama3": SHOWN}),
    ],
)
def test_outcomes(name: str, outcomes: dict[str, str]) -> None:
    for template, outcome in outcomes.items():
        if outcome == SHOWN:
            encoded(name, template)
        else:
            with pytest.raises(RecordError, match=outcome):
                encoded(name, template)


@pytest.mark.parametrize(
    ("name", "template", "event"),
    [
        ("earlier thoughts", "qwen3", "thoughts left out"),
        ("thoughts", "chatml", "thoughts kept"),
        ("thoughts", "qwen3", "thoughts kept"),
        ("thoughts before a later turn", "chatml", "thoughts kept"),
        ("reasoning", "qwen3", "thoughts kept"),
        ("reasoning and answer", "chatml", "thoughts left out"),
        ("system in the middle", "mistral", "turns changed or left out by the template"),
        ("unknown argument", "chatml", "colour without effect"),
        ("names", "chatml", "name left out"),
    ],
)
def test_what_templates_leave_out_is_counted(name: str, template: str, event: str) -> None:
    _, encode, _ = encoded(name, template)
    assert encode.events[event] > 0 and event in encode.reading()


def test_arguments_reach_the_template() -> None:
    _, encode, (chosen, _) = encoded("thinking off", "qwen3")
    assert not any("without effect" in event for event in encode.events), "it moves the generation prompt"
    assert encoded("thinking off", "gemma")[1].events["enable_thinking without effect"] == 2
    _, _, with_tools = encoded("tools", "qwen3")
    assert "finds" in encode.tokenizer.decode(with_tools[0]) and "finds" not in encode.tokenizer.decode(chosen)


def test_blanks_that_a_template_trims_are_counted() -> None:
    tokenizer = load_tokenizer("bundled:tiny-llama")
    tokenizer.chat_template = TEMPLATES["llama3"]
    encode = Encoder(tokenizer, EncodeConfig("chat"), "single")
    asked = (Message("user", "q"),)
    pairs = [("7", "7 "), ("7", "8"), ("7", "7")]
    list(encode.encode([Comparison(asked, (Message("assistant", a),), (Message("assistant", b),)) for a, b in pairs]))
    assert encode.events["that differ in blanks alone, which the template trims"] == 1


def test_what_a_template_raises_is_one_line() -> None:
    tokenizer = load_tokenizer("bundled:tiny-llama")
    tokenizer.chat_template = "{{ raise_exception('no\nway') }}"
    record = Comparison((Message("user", "q"),), (Message("assistant", "a"),), (Message("assistant", "b"),), source="f:1")
    with pytest.raises(RecordError, match=r"f:1: the tokenizer's chat template refuses it .no way.; use"):
        list(Encoder(tokenizer, EncodeConfig("chat"), "single").encode([record]))


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_continuations_get_a_hint(template: Any) -> None:
    """A response that begins with a blank gets a second one in a transcript, and a turn of its own in a chat: `concat` may be meant."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    encode = Encoder(tokenizer, EncodeConfig(template), "single")
    record = to_record({"prompt": "Beautiful is better than", "chosen": " ugly.", "rejected": " the moon."}, "auto", "f:1")
    list(encode.encode([record]))
    assert encode.events["that begin with a blank (continuations? template: concat)"] == 2
