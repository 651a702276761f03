"""PPE, Preference Proxy Evaluations: pairs of Chatbot Arena with a winner, and K responses with their correctness."""

from __future__ import annotations

import re

from prefrep.data.fields import named, number, prompt_of, text_response
from prefrep.data.formats.base import Format
from prefrep.data.turns import MisfitError, Row, kind, need
from prefrep.records import Comparison, RankedResponses, Record

_COLUMN = re.compile(r"response_(\d+)")
_WINNERS = {"model_a": (0, 1.0), "model_b": (1, 1.0), "tie": (0, 0.5), "tie (bothbad)": (0, 0.5)}
_TAGS = ("model_a", "model_b", "winner", "model_name", "language")


def _ppe(row: Row) -> Record:
    """Return a comparison for a row with a `winner` (a tie has probability 0.5), else K responses with `scores` 1 (correct) and 0."""
    prompt = prompt_of(row)
    names = named({**row, "id": row.get("question_id", row.get("id"))})
    names["tags"] = {**names["tags"], **{key: str(row[key]) for key in _TAGS if row.get(key) is not None}}
    columns = sorted((key for key in row if _COLUMN.fullmatch(key)), key=lambda key: int(key.rpartition("_")[2]))
    need(row, *columns)
    responses = [text_response(row[name], name) for name in columns]
    if row.get("winner") is not None:
        if row["winner"] not in _WINNERS:
            raise MisfitError(f"'winner' must be one of {', '.join(_WINNERS)}, found {row['winner']!r}")
        if len(responses) != 2:
            raise MisfitError(f"a row with a winner needs response_1 and response_2, found {', '.join(columns) or 'none'}")
        first, probability = _WINNERS[row["winner"]]
        return Comparison(prompt, responses[first], responses[1 - first], probability=probability, **names)
    need(row, "scores")
    if not isinstance(row["scores"], list):
        raise MisfitError(f"'scores' must be a list of truth values, found {kind(row['scores'])}")
    scores = tuple(float(value) if isinstance(value, bool) else number(value, "scores") for value in row["scores"])
    return RankedResponses(prompt, tuple(responses), scores, **names)


# Written from the dataset cards; not tested on published rows.
PPE = Format(
    '{"prompt", "response_1", "response_2", "winner"} or {"prompt", "response_1", ..., "response_K", "scores": [K truth values]}',
    lambda row: {"prompt", "response_1", "response_2"} <= row.keys() and bool({"winner", "scores"} & row.keys()),
    _ppe,
)
