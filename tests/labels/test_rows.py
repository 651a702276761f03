"""What is written reads back as the same pairs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefrep.data.sources import Source, read
from prefrep.data.spool import Spool
from prefrep.errors import RecordError
from prefrep.labels.rows import Labelled, pairs_of, read_pairs, written
from prefrep.records import Comparison, Message, RankedResponses

HH = {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}
EXPLICIT = {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "margin": 0.5, "soft_label": 0.9, "mine": [1, 2]}
ARENA = {
    "conversation_a": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
    "conversation_b": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
    "winner": "model_a", "model_a": "x", "model_b": "y", "turn": 1,
}  # fmt: skip
RANKED = {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [1, 3, 3], "id": "r"}


def _file(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _again(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Comparison]:
    return [pair.comparison for record in read(str(_file(tmp_path, *rows))) for pair in pairs_of(record)]


@pytest.mark.parametrize("row", [HH, EXPLICIT, ARENA, RANKED], ids=["hh", "explicit", "arena", "ranked"])
def test_labels_come_back(tmp_path: Path, row: dict[str, Any]) -> None:
    """Of every format, texts, labels and columns are read as they were written."""
    pairs = [
        each.relabelled(probability=0.25, margin=-1.5, weight=2.0).noted(extra=7) for each in read_pairs(Source(str(_file(tmp_path, row))))
    ]
    rows = list(written(pairs))
    again = _again(tmp_path, rows)
    assert [(a.prompt, a.chosen, a.rejected, a.probability, a.margin, a.weight) for a in again] == [
        (b.prompt, b.chosen, b.rejected, 0.25, -1.5, 2.0) for b in (each.comparison for each in pairs)
    ]
    assert all(found["extra"] == 7 for found in rows)


def test_rows_stay_as_they_are(tmp_path: Path) -> None:
    """Of a row with one pair, everything is kept, and its own name of a soft label is used."""
    (each,) = read_pairs(Source(str(_file(tmp_path, EXPLICIT))))
    assert list(written([each.relabelled(probability=0.1)])) == [EXPLICIT | {"soft_label": 0.1}]
    assert list(written([each])) == [EXPLICIT]


def test_pairs_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    """A pair across prompts has no row; then all rows are conversations that share nothing, or their prompt."""
    (own,) = read_pairs(Source(str(_file(tmp_path, HH))))
    across = Comparison((), (Message("user", "Why?"), Message("assistant", "a")), (Message("user", "How?"), Message("assistant", "b")))
    again = _again(tmp_path, list(written([own, Labelled(across)])))
    assert [(a.prompt, a.chosen, a.rejected) for a in again] == [
        (own.comparison.prompt, own.comparison.chosen, own.comparison.rejected),
        ((), across.chosen, across.rejected),
    ]


def test_ranked_responses_become_pairs() -> None:
    """Every pair with unequal scores, the better response first."""
    a, b, c = ((Message("assistant", name),) for name in "abc")
    record = RankedResponses((Message("user", "?"),), (a, b, c), (1.0, 3.0, 3.0), id="r")
    found = [(each.comparison.id, each.comparison.chosen, each.comparison.rejected, each.scores) for each in pairs_of(record)]
    assert found == [("r:1:0", b, a, (3.0, 1.0)), ("r:2:0", c, a, (3.0, 1.0))]


def test_rows_find_their_pairs(tmp_path: Path) -> None:
    """Beside bad rows, ranked ones and rows of several annotators, in two files: each pair alone in its row has that row."""
    votes = {"prompt": "Why?", "responses": ["a", "b"], "scores": [1, 2]}
    several = {**EXPLICIT, "annotator": "x"}
    files = [[EXPLICIT, votes, {"prompt": "?", "chosen": 3, "rejected": None}, several | {"mine": 7}], [EXPLICIT | {"mine": 8}]]
    for name, rows in zip("ab", files, strict=True):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skipped: list[RecordError] = []
    found = read_pairs(Source(str(tmp_path)), "skip", skipped)
    assert [each.row and each.row["mine"] for each in found] == [[1, 2], 7, 8]
    assert len(skipped) == 2 and isinstance(found, Spool)


def test_values_of_tables(tmp_path: Path) -> None:
    """Times with zones of other libraries, and NumPy's numbers, are kept as plain data."""
    table = pa.table(
        {
            "prompt": ["p"],
            "chosen": ["a"],
            "rejected": ["b"],
            "at": pa.array([0], pa.timestamp("s", tz="Europe/Paris")),
            "more": [{"when": [datetime(2000, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo"))]}],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (each,) = read_pairs(Source(str(tmp_path / "t.parquet")))
    assert each.row is not None and each.row["at"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert each.row["more"]["when"] == [datetime(1999, 12, 31, 15, tzinfo=UTC)]
    assert next(written([each]))["chosen"][-1]["content"] == "a", "JSON has no times, so it is written as a conversation"
    noted = each.noted(x=np.float32(0.5)).relabelled(probability=np.float64(0.25), margin=np.float32(1))
    assert (type(noted.columns["x"]), type(noted.comparison.probability)) == (float, float)
    (again,) = Spool([noted])
    assert again == noted
