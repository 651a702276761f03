"""PPE, Preference Proxy Evaluations: pairs of Chatbot Arena with a winner, and K responses with their correctness."""

from __future__ import annotations

import re

from prefrep.data.fields import named, number, prompt_of, text_response
from prefrep.data.formats.base import Format
from prefrep.data.formats.verdicts import choice, verdict
from prefrep.data.formats.votes import WINNERS
from prefrep.data.turns import MisfitError, Row, kind, need
from prefrep.records import RankedResponses, Record

_COLUMN = re.compile(r"response_(\d+)")


def _ppe(row: Row) -> Record:
    """Return a comparison for a row with a `winner` (a tie has probability 0.5), else K responses with `scores` 1 (correct) and 0."""
    prompt = prompt_of(row)
    name = str(row.get("question_id") or "")
    columns = sorted((key for key in row if _COLUMN.fullmatch(key)), key=lambda key: int(key.rpartition("_")[2]))
    need(row, *columns)
    responses = [text_response(row[name], name) for name in columns]
    if row.get("winner") is not None:
        side = choice(row["winner"], "winner", WINNERS)
        if len(responses) != 2:
            raise MisfitError(f"a row with a winner needs response_1 and response_2, found {', '.join(columns) or 'none'}")
        tags = {"winner": row["winner"], "language": row.get("language")}
        return verdict(row, prompt, responses, side, models=[row.get("model_a"), row.get("model_b")], tags=tags, id=name)
    need(row, "scores")
    if not isinstance(row["scores"], list):
        raise MisfitError(f"'scores' must be a list of truth values, found {kind(row['scores'])}")
    scores = tuple(float(value) if isinstance(value, bool) else number(value, "scores") for value in row["scores"])
    common = named(row)
    if model := row.get("model_name"):
        common["tags"] = {**common["tags"], "model_name": str(model)}
    return RankedResponses(prompt, tuple(responses), scores, **(common | ({"id": name} if name else {})))


# Written from the dataset cards; not tested on published rows.
PPE = Format(
    '{"prompt", "response_1", "response_2", "winner"} or {"prompt", "response_1", ..., "response_K", "scores": [K truth values]}',
    lambda row: {"prompt", "response_1", "response_2"} <= row.keys() and bool({"winner", "scores"} & row.keys()),
    _ppe,
)
