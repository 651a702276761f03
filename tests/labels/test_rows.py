"""What is written reads back as the same pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefrep.data.sources import Source, read
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
