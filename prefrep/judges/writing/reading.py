"""From what a judge wrote to a verdict, or to the reason why there is none.

The last marker counts. What cannot be read is *no verdict*: it is no tie, and it is counted. Rules that take the first marker read
"not [[A]] but [[B]]" as A (allenai/reward-bench issue 272).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prefrep.judges.writing.forms import Form, Style

Finish = Literal["stop", "length", "filter", "refused", "error", "time-out"]
Constraint = Literal["none", "choice", "json"]

UNANSWERED: tuple[Finish, ...] = ("error", "time-out")  # the server said nothing to the question

TAIL = 16  # last tokens of an answer whose alternatives are kept
MASS = 0.01  # least probability of all labels together that makes a verdict
_MARKER = re.compile(r"\[\[\s*([^\[\]\n]{1,24}?)\s*\]\]")
_BESIDE = re.compile(r"(?:[\s\W]|and|or|vs)*", re.I)  # between two markers that are not argued
_REFUSAL = re.compile(r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:no|')t|won't|refuse|must decline)|as an ai\b)", re.I)
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3010: ord("["), 0x3011: ord("]")}  # of Chinese and Japanese texts
_WIDE |= {0x2019: ord("'")}


@dataclass(frozen=True)
class Reply:
    """What came back for one question.

    Args:
        text: The answer as it came.
        finish: How it ended: `stop`, `length` (cut off), `filter` (the server withheld it), `refused` (the server did not take it,
            such as one that is too long), `error`, `time-out`.
        tail: The last tokens of the answer, each with the log-probabilities of the tokens that could stand there; empty: not given.
        asked_tokens: Tokens of the question.
        said_tokens: Tokens of the answer.
    """

    text: str
    finish: Finish = "stop"
    tail: tuple[tuple[str, Mapping[str, float]], ...] = ()
    asked_tokens: int = 0
    said_tokens: int = 0


@dataclass(frozen=True)
class Reading:
    """The verdict in one answer.

    Args:
        shares: Share of each label [L], adding up to 1; None: no verdict.
        soft: Whether the shares are probabilities of tokens.
        why: Without a verdict, the reason: `empty`, `cut off`, `refusal`, `contradiction`, `no marker`, `unknown verdict`, `not JSON`,
            `refused`, `error` or `time-out`.
    """

    shares: tuple[float, ...] | None
    soft: bool = False
    why: str = ""


def read(reply: Reply, form: Form, style: Style, constraint: Constraint = "none") -> Reading:
    """Return the verdict in an answer.

    Args:
        reply: The answer.
        form: What could be said.
        style: `letter`: the answer is a label and nothing else; `reasons`: a marker stands in it.
        constraint: `json`: the answer is a JSON object with the key `verdict`.
    """
    if reply.finish in ("refused", "error", "time-out"):
        return Reading(None, why=reply.finish)
    text = reply.text.translate(_WIDE)
    if reply.finish == "filter":
        return Reading(None, why="refusal")
    if style == "letter" and reply.tail and constraint != "json" and (shares := _token_shares(reply.tail, 0, form)):
        return Reading(shares, True)
    if not text.strip():
        return Reading(None, why="empty")
    if reply.finish == "length" and style == "reasons":
        return Reading(None, why="cut off")
    label, place, why = _json(text, form) if constraint == "json" else _letter(text, form) if style == "letter" else _marked(text, form)
    if label is None:
        return Reading(None, why="refusal" if why == "no marker" and _REFUSAL.search(text[:400]) else why)
    shares = _shares_at(reply, place, form) if reply.tail else None
    if shares is not None:
        return Reading(shares, True)
    return Reading(tuple(float(each == label) for each in form.labels))


def _known(said: str, form: Form) -> str | None:
    plain = re.sub(r"\s", "", said).upper()
    return next((label for label in form.labels if label.upper() == plain), None)


def _marked(text: str, form: Form) -> tuple[str | None, int, str]:
    """Return the label in the last marker and its place, or why there is none."""
    found = list(_MARKER.finditer(text))
    if not found:
        return None, 0, "no marker"
    last = found[-1]
    label = _known(last[1], form)
    if label is None:
        return None, 0, "unknown verdict"
    for before in reversed(found[:-1]):
        if not _BESIDE.fullmatch(text[before.end() : last.start()]):
            break
        if _known(before[1], form) != label:
            return None, 0, "contradiction"
    return label, last.start(1), ""


def _letter(text: str, form: Form) -> tuple[str | None, int, str]:
    said = text.strip(" \t\r\n[]()*.\"'`:")
    label = _known(said, form)
    return (label, text.find(said), "") if label is not None else (None, 0, "no marker")


def _json(text: str, form: Form) -> tuple[str | None, int, str]:
    try:
        said = json.loads(text)["verdict"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, 0, "not JSON"
    label = _known(str(said), form)
    return (label, text.rfind(str(said)), "") if label is not None else (None, 0, "unknown verdict")


def _shares_at(reply: Reply, place: int, form: Form) -> tuple[float, ...] | None:
    """Return probabilities of labels where the verdict stands in the text; None: its token was not kept or says more than a label."""
    end, last = len(reply.text), len(reply.tail) - 1
    while last >= 0 and not reply.text.endswith(reply.tail[last][0]):  # some servers list the end of the turn, which is not in the text
        last -= 1
    for number in range(last, -1, -1):
        begin = end - len(reply.tail[number][0])
        if begin <= place < end:
            return _token_shares(reply.tail, number, form)
        end = begin
    return None


def _token_shares(tail: Sequence[tuple[str, Mapping[str, float]]], number: int, form: Form) -> tuple[float, ...] | None:
    """Return the probabilities of labels at a token, over those that are listed, as AlpacaEval does; None: they are next to nothing."""
    if not form.single:
        return None
    found = dict.fromkeys(form.labels, 0.0)
    for token, value in tail[number][1].items():
        label = _known(token.translate(_WIDE).strip(" \t\r\n[]()*\"'`▁Ġ"), form)
        if label is not None and math.isfinite(value):
            found[label] += math.exp(value)
    total = sum(found.values())
    return tuple(found[label] / total for label in form.labels) if total >= MASS else None
