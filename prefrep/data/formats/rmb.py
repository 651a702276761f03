"""RMB: pairs of responses, and the best response with several losers."""

from __future__ import annotations

from collections.abc import Mapping

from prefrep.data.fields import named, text_response
from prefrep.data.formats.base import Format
from prefrep.data.formats.rated import models_of
from prefrep.data.formats.verdicts import verdict
from prefrep.data.turns import MisfitError, Row, conversation, kind, need, part
from prefrep.records import Messages, RankedResponses, Record


def _answer(value: object, name: str) -> Messages:
    if not isinstance(value, Mapping):
        raise MisfitError(f"'{name}' must be an object with llm_name and answer, found {kind(value)}")
    return text_response(part(value, name, "answer"), f"{name}.answer")


def _rmb(row: Row) -> Record:
    """Return a comparison for a pair, and a best-of-N row as the best response (score 1) followed by the losers (score 0)."""
    pairwise = "bon_best" not in row
    need(row, "conversation_input", *(("chosen", "reject") if pairwise else ("bon_best", "loser_list")))
    prompt = conversation(row["conversation_input"], "conversation_input")
    name, subset = str(row.get("pair_uid" if pairwise else "bon_uid") or ""), str(row.get("category_path") or "")
    if pairwise:
        sides = [_answer(row[side], side) for side in ("chosen", "reject")]
        return verdict(row, prompt, sides, 0, models=[row[side].get("llm_name") for side in ("chosen", "reject")], id=name, subset=subset)
    losers = row["loser_list"]
    if not isinstance(losers, list) or not losers:
        raise MisfitError("'loser_list' must be a non-empty list of objects with llm_name and answer")
    responses = (_answer(row["bon_best"], "bon_best"), *(_answer(each, "loser_list") for each in losers))
    common = {**named(row), "id": name, "subset": subset}
    if models := models_of([row["bon_best"], *losers], "llm_name"):
        common["tags"] = {**common["tags"], "models": models}
    return RankedResponses(prompt, responses, (1.0,) + (0.0,) * len(losers), **common)


# Written from the description of the repository; not tested on published rows.
RMB = Format(
    '{"conversation_input": MESSAGES, "chosen": {"answer"}, "reject": {"answer"}} or {..., "bon_best": {"answer"}, "loser_list": [...]}',
    lambda row: "conversation_input" in row and ({"chosen", "reject"} <= row.keys() or {"bon_best", "loser_list"} <= row.keys()),
    _rmb,
)
