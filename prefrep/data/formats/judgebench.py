"""JudgeBench: an objectively correct response and a subtly wrong one."""

from __future__ import annotations

from prefrep.data.fields import named, prompt_of, text_response
from prefrep.data.formats.base import Format
from prefrep.data.turns import MisfitError, Row, need
from prefrep.records import Comparison, Record

_TAGS = ("original_id", "response_model")


def _judgebench(row: Row) -> Record:
    """Return the correct response as chosen; the subset is the `source` of the question, such as `mmlu-pro-law`."""
    need(row, "question", "response_A", "response_B", "label", "source")
    if row["label"] not in ("A>B", "B>A"):
        raise MisfitError(f"'label' must be 'A>B' or 'B>A', found {row['label']!r}")
    sides = [text_response(row[name], name) for name in ("response_A", "response_B")]
    chosen, rejected = sides if row["label"] == "A>B" else reversed(sides)
    names = named({**row, "id": row.get("pair_id"), "subset": row["source"]})
    names["tags"] = {**names["tags"], **{key: str(row[key]) for key in _TAGS if row.get(key) is not None}}
    return Comparison(prompt_of(row, "question"), chosen, rejected, **names)


# Tested on the published split gpt.
JUDGEBENCH = Format(
    '{"pair_id", "source", "question", "response_A", "response_B", "label": "A>B" or "B>A"}',
    lambda row: {"question", "response_A", "response_B", "label", "source"} <= row.keys(),
    _judgebench,
)
