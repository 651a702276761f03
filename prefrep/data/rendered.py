"""Conversations from rendered text in other models' chat templates, for protocols that send text instead of messages.

OpenRLHF and others send prompt and response as one string in the *policy's* template. A preference model uses its own template, so the
turns have to be recovered. Chat templates mark them with special tokens; `FORMATS` has one row per family of markers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prefrep.errors import RecordError
from prefrep.records import Message, Messages

ROLES = {"human": "user", "model": "assistant", "gpt": "assistant", "ai": "assistant", "bot": "assistant", "ipython": "tool"}
# Special tokens that decoders leave before and after a text, for the tokenizers of the families below.
SPECIAL = r"(?:<\|[^<>|\n]{1,40}\|>|<\uFF5C[^<>\uFF5C\n]{1,40}\uFF5C>|</?s>|<pad>|<eos>|<bos>|<unk>|\[PAD\]|<end_of_turn>)"
_START, _END = re.compile(rf"\A(?:\s*{SPECIAL})*\s*"), re.compile(rf"(?:\s*{SPECIAL})+\s*\Z")


@dataclass(frozen=True)
class TurnFormat:
    """How a family of chat templates marks turns.

    Args:
        name: Name of the family.
        start: Pattern of the start of a turn; the group `role` matches its role, and a group `user` or `assistant` implies that role.
        end: Pattern of the end of a turn, if the template writes one.
    """

    name: str
    start: re.Pattern[str]
    end: re.Pattern[str]


def _format(name: str, start: str, end: str) -> TurnFormat:
    return TurnFormat(name, re.compile(start), re.compile(end))


FORMATS = (
    _format("ChatML (Qwen, SmolLM2, Yi)", r"<\|im_start\|>(?P<role>\w+)\n", r"<\|im_end\|>|<\|endoftext\|>"),
    _format("Llama 3", r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n", r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>"),
    _format("Gemma", r"<start_of_turn>(?P<role>\w+)\n", r"<end_of_turn>|<eos>"),
    _format("Phi, Zephyr", r"<\|(?P<role>user|assistant|system|tool)\|>\n?", r"<\|end\|>|</s>|<\|endoftext\|>"),
    _format("DeepSeek", r"(?P<user><\uFF5CUser\uFF5C>)|(?P<assistant><\uFF5CAssistant\uFF5C>)", r"<\uFF5Cend\u2581of\u2581sentence\uFF5C>"),
    _format("Llama 2, Mistral", r"(?P<user>\[INST\] ?)|(?P<assistant> ?\[/INST\] ?)", r" ?</s>"),
    _format("transcripts", r"(?:\A|\n\n)(?P<role>Human|User|Assistant|System): ?", r"</s>|<\|endoftext\|>"),
)


def read_turns(text: str) -> Messages:
    """Return the turns of a rendered conversation; a generation prompt becomes a last, empty turn.

    Args:
        text: Text in some chat template.

    Returns:
        The turns, or () if no format is recognised.
    """
    for form in FORMATS:
        marks = list(form.start.finditer(text))
        if not marks or (text[: marks[0].start()].strip() and _START.sub("", text[: marks[0].start()])):
            continue
        turns = []
        for mark, after in zip(marks, [*marks[1:], None], strict=True):
            body = text[mark.end() : len(text) if after is None else after.start()]
            ended = form.end.search(body)
            turns.append(Message(_role(mark), (body[: ended.start()] if ended else body).strip("\n")))
        return _system_of_llama_2(turns)
    return ()


def split(query: str, prompt: str | None, where: str) -> tuple[Messages, str]:
    """Return the conversation and the response that a rendered query holds.

    Args:
        query: Prompt and response in the policy's template, special tokens kept.
        prompt: The rendered prompt, with which the query begins; None or empty: the last assistant turn of the query is the response.
        where: Name of the field, for error messages.

    Raises:
        RecordError: Query and prompt do not belong together, or no template is recognised in a query without a prompt.
    """
    at = query.find(prompt) if prompt else -1
    if prompt and at >= 0 and not _START.sub("", query[:at]):
        turns = read_turns(prompt)
        if turns and turns[-1].role == "assistant" and not turns[-1].content:
            turns = turns[:-1]
        response = read_turns(query)[-1].content if turns and _begins(query, at + len(prompt)) else query[at + len(prompt) :]
        return turns or (Message("user", _bare(prompt)),), _bare(response)
    # Decoders insert spaces after special tokens and templates drop turns, so the prompt may differ from the beginning of the query.
    turns = read_turns(query)
    if len(turns) > 1 and turns[-1].role == "assistant":
        return turns[:-1], _bare(turns[-1].content)
    if prompt:
        raise RecordError(where, "it does not begin with its prompt", "send the rendered prompt that the policy continued")
    raise RecordError(
        where, "it comes without its prompt, and no known chat template separates the response from the prompt",
        "send prompts too, or serve with --rendered",
    )  # fmt: skip


def _begins(query: str, at: int) -> bool:
    """Return whether a turn begins where the prompt ends, that is, whether the prompt was rendered without a generation prompt."""
    return any((mark := form.start.match(query, at)) is not None and _role(mark) == "assistant" for form in FORMATS)


def _role(mark: re.Match[str]) -> str:
    groups = mark.groupdict()
    name = (groups.get("role") or next(key for key, value in groups.items() if value)).lower()
    return ROLES.get(name, name)


def _bare(text: str) -> str:
    """Return a text without surrounding special tokens and white space."""
    return _END.sub("", _START.sub("", text, count=1)).strip()


def _system_of_llama_2(turns: list[Message]) -> Messages:
    """Return turns with the system prompt that Llama 2 writes into the first user turn as a turn of its own."""
    if turns and (found := re.match(r"\s*<<SYS>>\n(.*?)\n<</SYS>>\s*(.*)", turns[0].content, re.S)):
        return (Message("system", found[1]), Message("user", found[2]), *turns[1:])
    return tuple(turns)
