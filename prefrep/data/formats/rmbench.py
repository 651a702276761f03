"""RM-Bench: three correct and three incorrect responses to a prompt, in three styles each."""

from __future__ import annotations

from prefrep.data.fields import named, prompt_of, text_response
from prefrep.data.formats.base import SIDES, Format, both, is_texts
from prefrep.data.turns import MisfitError, Row, need
from prefrep.records import RankedResponses, Record

STYLES = 3  # concise, detailed plain text, detailed Markdown


def _fits(row: Row) -> bool:
    """Distinguish RM-Bench from RewardBench 2, whose rows also have two lists of texts, but state how many of them are correct."""
    three = "prompt" in row and both(row, is_texts) and all(len(row[name]) == STYLES for name in SIDES)
    return three and row.get("num_correct") is None


def _rmbench(row: Row) -> Record:
    """Return the chosen responses with score 1, then the rejected ones with score 0, each in the order of styles."""
    need(row, *SIDES)
    for name in SIDES:
        if not isinstance(row[name], list) or len(row[name]) != STYLES:
            raise MisfitError(f"'{name}' must be a list of {STYLES} texts, one per style", "rows of another shape need another format")
    right, wrong = ([text_response(each, name) for each in row[name]] for name in SIDES)
    names = named(row)
    if row.get("domain") is not None:
        names["tags"] = {**names["tags"], "domain": str(row["domain"])}
    return RankedResponses(prompt_of(row), (*right, *wrong), (1.0,) * STYLES + (0.0,) * STYLES, **names)


# Tested on the published files chat, safety-refuse and safety-response, which have `subset` and no `domain`.
RMBENCH = Format('{"prompt", "chosen": [3 TEXTS], "rejected": [3 TEXTS], "domain" or none, "id"}', _fits, _rmbench)
