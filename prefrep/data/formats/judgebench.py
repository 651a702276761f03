"""JudgeBench: an objectively correct response and a subtly wrong one."""

from __future__ import annotations

from prefrep.data.fields import prompt_of, text_response
from prefrep.data.formats.base import Format
from prefrep.data.formats.verdicts import choice, verdict
from prefrep.data.turns import Row, need
from prefrep.records import Record


def _judgebench(row: Row) -> Record:
    """Return the correct response as chosen; the subset is the `source` of the question, such as `mmlu-pro-law`."""
    need(row, "question", "response_A", "response_B", "label", "source")
    sides = [text_response(row[name], name) for name in ("response_A", "response_B")]
    return verdict(
        row, prompt_of(row, "question"), sides, choice(row["label"], "label", {"A>B": 0, "B>A": 1}), id=str(row.get("pair_id") or ""),
        subset=str(row["source"]), tags={"original_id": row.get("original_id"), "response_model": row.get("response_model")},
    )  # fmt: skip


# Tested on the published split gpt.
JUDGEBENCH = Format(
    '{"pair_id", "source", "question", "response_A", "response_B", "label": "A>B" or "B>A"}',
    lambda row: {"question", "response_A", "response_B", "label", "source"} <= row.keys(),
    _judgebench,
)
