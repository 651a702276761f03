"""Formats of rows with two responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prefrep.data.fields import (
    branch,
    check_answers,
    pair,
    prompt_of,
    response,
    text,
    text_response,
    transcript,
)
from prefrep.data.formats.base import SIDES, Format, both, is_chat, is_text, is_transcript
from prefrep.data.turns import MisfitError, Row, conversation, need, part
from prefrep.records import Message, Record


def _standard_explicit(row: Row) -> Record:
    need(row, *SIDES)
    prompt = prompt_of(row)
    text(row["prompt"], "prompt")
    return pair(row, prompt, *(text_response(row[name], name) for name in SIDES))


def _standard_implicit(row: Row) -> Record:
    need(row, *SIDES)
    _no_prompt(row)
    return pair(row, (), *(text_response(row[name], name) for name in SIDES))


def _conversational_explicit(row: Row) -> Record:
    need(row, *SIDES)
    prompt = prompt_of(row)
    chosen, rejected = (response(row[name], name) for name in SIDES)
    n = len(prompt)
    # Many data sets on the hub repeat the prompt in both responses; read literally, the model would see it twice.
    if chosen[:n] == prompt == rejected[:n]:
        chosen, rejected = chosen[n:], rejected[n:]
    check_answers(zip(SIDES, (chosen, rejected), strict=True))
    return pair(row, prompt, chosen, rejected)


def _conversational_implicit(row: Row) -> Record:
    need(row, *SIDES)
    sides = [conversation(row[name], name) for name in SIDES]
    if any(side and side[0].role == "assistant" for side in sides):
        _no_prompt(row)  # whole conversations may repeat the prompt in a column
    return pair(row, *branch(*sides))


def _no_prompt(row: Row) -> None:
    """Reject a row with a prompt, in a file whose format comes from a first row without one."""
    if row.get("prompt"):
        raise MisfitError("it has a prompt, and this format has none", "give every row its prompt, or remove the column")


def _openrlhf(row: Row) -> Record:
    """Read rows of OpenRLHF, which are those of TRL. Its flags choose among the four formats; here the columns do."""
    chat, prompt = isinstance(row.get("chosen"), list), "prompt" in row
    if chat:
        return _conversational_explicit(row) if prompt else _conversational_implicit(row)
    return _standard_explicit(row) if prompt else _standard_implicit(row)


def _rlhflow(row: Row) -> Record:
    """Apply RLHFlow's own filter: user and assistant alternate, and only the last turn differs."""
    need(row, *SIDES)
    chosen, rejected = sides = [conversation(row[name], name) for name in SIDES]
    other = "or set format: conversational-implicit"
    for name, side in zip(SIDES, sides, strict=True):
        if len(side) % 2 or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(side)):
            raise MisfitError(f"the turns of '{name}' do not alternate between user and assistant", other)
        if not all(turn.content for turn in side):
            raise MisfitError(f"'{name}' has an empty turn", other)
    if chosen[:-1] != rejected[:-1]:
        raise MisfitError("'chosen' and 'rejected' differ before the last turn", other)
    return pair(row, chosen[:-1], chosen[-1:], rejected[-1:])


def _hh(row: Row) -> Record:
    need(row, *SIDES)
    before = text(row["prompt"], "prompt") if row.get("prompt") is not None else ""
    sides = [text(row[name], name) for name in SIDES]
    if all(side.startswith(before.rstrip()) for side in sides):  # the column repeats the beginning of both
        before = ""
    return pair(row, *branch(*(transcript(before + side, name) for name, side in zip(SIDES, sides, strict=True))))


def _gpm(row: Row) -> Record:
    worse = "rejected" if row.get("reject") is None and row.get("rejected") is not None else "reject"
    need(row, "chosen", worse)
    prompt = prompt_of(row, "instruction")
    if row.get("input"):  # the second half of Alpaca's instruction
        prompt = (*prompt[:-1], replace(prompt[-1], content=f"{prompt[-1].content}\n{text(row['input'], 'input')}"))
    sides = []
    for name in ("chosen", worse):
        value = row[name]
        if isinstance(value, Mapping):
            value = part(value, name, "response")
        sides.append(text_response(value, name))
    return pair(row, prompt, *sides)


def _rewardbench(row: Row) -> Record:
    """Read RewardBench 1, which assigns the roles of a list prompt by parity (rewardbench/utils.py:819 at 05a9005)."""
    need(row, *SIDES)
    prompt = prompt_of(row)
    if isinstance(row["prompt"], list):
        prompt = tuple(Message(("user", "assistant")[i % 2], turn.content) for i, turn in enumerate(prompt))
        if len(prompt) % 2 == 0:
            remedy = "if these are not RewardBench's rows, set format: conversational-explicit"
            raise MisfitError(f"a prompt of {len(prompt)} turns ends with an assistant turn", remedy)
    return pair(row, prompt, *(text_response(row[name], name) for name in SIDES))


# ---- detection


def _fits_hh(row: Row) -> bool:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return is_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:") and both(row, is_text)
    return "prompt" not in row and both(row, is_transcript)


def _fits_rewardbench(row: Row) -> bool:
    prompt = row.get("prompt")
    # RewardBench has no system or tool turns, which would get the role user by parity.
    chat = isinstance(prompt, list) and is_chat(prompt) and all(turn.get("role") in ("user", "assistant") for turn in prompt)
    return both(row, is_text) and (isinstance(prompt, str) or chat) and {"id", "subset"} <= row.keys()


def _fits_whole_chats(row: Row) -> bool:
    if not both(row, is_chat) or "prompt" not in row:
        return both(row, is_chat)
    # The binarised releases of UltraFeedback have a text prompt beside conversations that begin with it.
    opening = row["chosen"][0].get("role") if row["chosen"] else None
    return isinstance(row["prompt"], str) and opening in ("user", "system")


def _fits_chat_answers(row: Row) -> bool:
    return "prompt" in row and (both(row, is_chat) or (is_chat(row["prompt"]) and both(row, is_text)))


GPM = Format(
    '{"instruction", "input" or none, "chosen", "reject" or "rejected"}; chosen and reject may be {"response": TEXT}',
    lambda row: {"instruction", "chosen"} <= row.keys() and bool({"reject", "rejected"} & row.keys()),
    _gpm,
)
HH = Format(r'{"chosen", "rejected"}: "\n\nHuman: ...\n\nAssistant: ..."', _fits_hh, _hh)
REWARDBENCH = Format('{"prompt", "chosen": TEXT, "rejected": TEXT, "subset", "id"}', _fits_rewardbench, _rewardbench)
CONVERSATIONAL_IMPLICIT = Format('{"chosen": MESSAGES, "rejected": MESSAGES}', _fits_whole_chats, _conversational_implicit, generic=True)
CONVERSATIONAL_EXPLICIT = Format(
    '{"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}', _fits_chat_answers, _conversational_explicit, generic=True
)
STANDARD_EXPLICIT = Format(
    '{"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}',
    lambda row: "prompt" in row and both(row, is_text),
    _standard_explicit,
    generic=True,
)
STANDARD_IMPLICIT = Format(
    '{"chosen": TEXT, "rejected": TEXT}', lambda row: "prompt" not in row and both(row, is_text), _standard_implicit, generic=True
)
# Rows of these two look like the ones above, so they are never detected.
OPENRLHF = Format('{"prompt", "chosen", "rejected"}, texts or messages', lambda row: False, _openrlhf)
RLHFLOW = Format('{"chosen": MESSAGES, "rejected": MESSAGES}, all but the last turn shared', lambda row: False, _rlhflow)
