"""Battles from files: every published way to write one gives the same columns, and what is wrong is said."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from prefrep.battles import Battle
from prefrep.data.battles import Columns, gathered, joined, read
from prefrep.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"model_a": "x", "model_b": "y", "winner": "model_a", "judge": "j", "question_id": 1, "language": "en"},
    {"model_a": "y", "model_b": "z", "winner": "model_b", "judge": "j", "question_id": 1, "language": "de"},
    {"model_a": "z", "model_b": "x", "winner": "tie (bothbad)", "judge": "k", "question_id": 2, "language": "de"},
    {"model_a": "x", "model_b": "z", "winner": None, "judge": "k", "question_id": 2, "language": "de"},
]


def told(battles: Any) -> list[tuple[Any, ...]]:
    """Rows as names, since codes depend on the order of appearance."""
    prompts = [battles.prompts[code] if code >= 0 else "" for code in battles.prompt]
    sides = [[battles.systems[code] for code in column] for column in (battles.left, battles.right)]
    return list(
        zip(
            *sides, battles.outcome.tolist(), prompts, [battles.judges[code] for code in battles.judge], battles.first.tolist(),
            battles.weight.tolist(), strict=True,
        )
    )  # fmt: skip


EXPECTED = [("x", "y", 1.0, "1", "j", 1, 1), ("y", "z", 0.0, "1", "j", 1, 1), ("z", "x", 0.5, "2", "k", 1, 1)]


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> str:
    path = folder / f"votes{kind}"
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == ".arrow":
        with pyarrow.ipc.new_file(path, pyarrow.Table.from_pylist(rows).schema) as sink:
            sink.write_table(pyarrow.Table.from_pylist(rows))
    elif kind in (".csv", ".tsv", ".csv.gz"):
        comma = "\t" if kind == ".tsv" else ","
        lines = [comma.join(rows[0]), *(comma.join("" if each is None else str(each) for each in row.values()) for row in rows)]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"])
def test_every_container_gives_the_same_columns(tmp_path: Path, kind: str) -> None:
    found = read([write(tmp_path, ROWS, kind)], Columns(category="language"))
    assert told(found.battles) == EXPECTED
    assert [found.battles.categories[code] for code in found.battles.category] == ["en", "de", "de"]
    assert found.counts["rows"] == 4
    assert found.counts["no verdict"] == 1  # never a tie
    assert found.counts["both bad"] == 1


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("left", "right"), ("left", "right", "tie", "")),
        (("model_1", "model_2"), ("A", "B", "C", "error")),
        (("system_a", "system_b"), ("a>b", "B>>A", "A=B", "none")),
        (("model_a", "model_b"), ("1", "0", "0.5", None)),
        (("model_a", "model_b"), ("1", "2", "tie", None)),
        (("model_a", "model_b"), ("x", "z", "Draw", None)),  # the winner's own name
    ],
)
def test_ways_to_name_a_winner(tmp_path: Path, pair: tuple[str, str], said: tuple[str, ...]) -> None:
    if said[2] == "C":
        said = (said[0], said[1], "[[C]]", said[3])
    rows = [{pair[0]: r["model_a"], pair[1]: r["model_b"], "winner": w} for r, w in zip(ROWS, said, strict=True)]
    found = read([write(tmp_path, rows, ".jsonl")])
    assert [row[:3] for row in told(found.battles)] == [row[:3] for row in EXPECTED]
    assert found.battles.judges == ("votes",)  # named like the file
    assert found.counts["no verdict"] == 1


def test_numbers_and_one_column_for_each_side(tmp_path: Path) -> None:
    said = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
    rows = [
        {"model_a": r["model_a"], "model_b": r["model_b"], "winner_model_a": a, "winner_model_b": b, "winner_tie": t}
        for r, (a, b, t) in zip(ROWS, said, strict=True)
    ]
    assert [row[:3] for row in told(read([write(tmp_path, rows, ".csv")]).battles)] == [row[:3] for row in EXPECTED]
    soft = [{"left": "x", "right": "y", "winner": p} for p in (0.25, 0.75, 1.0)]
    np.testing.assert_array_equal(read([write(tmp_path, soft, ".parquet")]).battles.outcome, [0.25, 0.75, 1.0])


def test_features_of_lmarena_and_of_plain_columns(tmp_path: Path) -> None:
    meta = {
        "sum_assistant_a_tokens": 10,
        "sum_assistant_b_tokens": 30,
        "header_count_a": {"h1": 1, "h2": 2},
        "header_count_b": {"h1": 0, "h2": 4},
    }
    rows = [{**row, "conv_metadata": meta, "emoji_a": 1, "emoji_b": 2} for row in ROWS]
    for kind in (".parquet", ".jsonl"):
        found = read([write(tmp_path, rows, kind)], Columns(features=("length", "headings", "emoji"))).battles.features
        assert {name: values[0].tolist() for name, values in found.items()} == {"length": [10, 30], "headings": [3, 4], "emoji": [1, 2]}


def test_files_of_judges(tmp_path: Path) -> None:
    hard = [
        {"uid": "q", "model": "m", "judge": "g", "category": "math", "games": [{"score": "A>>B"}, {"score": "B>A"}]},
        {"uid": "q", "model": "n", "judge": "g", "category": "math", "games": [{"score": None}, {"score": "A=B"}]},
    ]
    # A is the baseline in the first game and the model in the second: it loses both, the first one thrice.
    found = read([write(tmp_path, hard, ".jsonl")])
    assert told(found.battles) == [
        ("baseline", "m", 1.0, "q", "g", 1, 3), ("m", "baseline", 0.0, "q", "g", 1, 1), ("n", "baseline", 0.5, "q", "g", 1, 1)
    ]  # fmt: skip
    assert found.counts["no verdict"] == 1
    pair = {"model_1": "m", "model_2": "n", "judge": ["g", "pair"]}
    bench = [
        {"question_id": 81, "turn": 2, "g1_winner": "model_1", "g2_winner": "model_1", **pair},
        {"question_id": 82, "turn": 1, "g1_winner": "error", "g2_winner": "model_2", **pair},
    ]
    found = read([write(tmp_path, bench, ".jsonl")])
    assert told(found.battles) == [("m", "n", 1, "81-2", "g", 1, 1), ("n", "m", 0, "81-2", "g", 1, 1), ("n", "m", 1, "82-1", "g", 1, 1)]
    outputs = {"instruction": "i", "generator_1": "m", "output_1": "ab", "generator_2": "n", "output_2": "abcd", "annotator": "g"}
    alpaca = [{**outputs, "preference": p} for p in (1.0, 1.75, 0, None)]
    found = read([write(tmp_path, alpaca, ".json")])
    np.testing.assert_array_equal(found.battles.outcome, [1.0, 0.25, 0.5])
    assert (found.battles.first == 0).all()  # which was shown first is unknown
    assert found.battles.features["length"][0].tolist() == [2, 4]


def test_files_are_joined_by_name(tmp_path: Path) -> None:
    both = joined([gathered([Battle("x", "y", 1.0, "p", "j")]), gathered([Battle("z", "x", 0.0, "", "k"), Battle("y", "x", 0.5, "p")])])
    assert told(both) == [("x", "y", 1.0, "p", "j", 1, 1), ("z", "x", 0.0, "", "k", 1, 1), ("y", "x", 0.5, "p", "crowd", 1, 1)]


def test_many_judges_are_a_crowd_unless_asked_for(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "judge": f"person {i}"} for i in range(30)]
    path = write(tmp_path, rows, ".jsonl")
    assert read([path]).battles.judges == ("votes",)
    assert read([path]).counts["judges merged"] == 30
    assert len(read([path], Columns(judge="judge")).battles.judges) == 30


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{**ROWS[0], "winner": "model_c"}], "row 1 has the winner 'model_c'; write model_a"),
        ([{**ROWS[0], "winner": 1}], "every winner is 1, which may be"),
        ([{**ROWS[0], "model_b": None}], "row 1 lacks the name of a system"),
        ([{**ROWS[0], "winner": None}], "no row has a verdict"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "not a file of battles .columns: prompt, chosen, rejected.; rename"),
        ([{**ROWS[0], "weight": -1}], "a weight is missing or below 0"),
        ([{"model": "m", "games": [1]}], ":1: not a row like the first one"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read([write(tmp_path, rows, ".jsonl")])


@pytest.mark.parametrize(
    ("systems", "winners"),
    [(("A", "B"), ("A", "B")), (("1", "2"), ("1", "2")), (("tie", "x"), ("tie", "model_b"))],
)
def test_a_winner_that_may_be_a_side_or_a_system_is_refused(tmp_path: Path, systems: tuple[str, str], winners: tuple[str, str]) -> None:
    rows = [{"model_a": systems[1], "model_b": systems[0], "winner": winner} for winner in winners]
    with pytest.raises(DataError, match="may be a side, a number or a system of that name"):
        read([write(tmp_path, rows, ".jsonl")])


def test_a_system_may_be_called_like_its_side(tmp_path: Path) -> None:
    rows = [{"model_a": "A", "model_b": "B", "winner": winner} for winner in ("A", "B")]
    assert read([write(tmp_path, rows, ".csv")]).battles.outcome.tolist() == [1.0, 0.0]


def test_not_a_number_is_no_verdict_and_no_prompt(tmp_path: Path) -> None:
    rows = [{"model_a": "x", "model_b": "y", "winner": w, "prompt": p} for w, p in ((math.nan, 1.0), (1.0, math.nan), (0.0, 2.5))]
    table = pyarrow.table({name: pyarrow.array([row[name] for row in rows], from_pandas=False) for name in rows[0]})
    pyarrow.parquet.write_table(table, tmp_path / "nan.parquet")
    for path in (write(tmp_path, rows, ".jsonl"), str(tmp_path / "nan.parquet")):
        found = read([path])
        assert found.counts["no verdict"] == 1
        assert [row[2:4] for row in told(found.battles)] == [(1.0, ""), (0.0, "2.5")]


def test_a_system_without_a_verdict_is_left_out(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {**ROWS[0], "model_a": "idle", "winner": None}]
    found = read([write(tmp_path, rows, ".csv")])
    assert found.battles.systems == ("x", "y", "z") and told(found.battles) == EXPECTED[:2]
    assert found.counts["systems left out"] == 1


def test_columns_that_are_not_there_are_said(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ".csv")
    with pytest.raises(ConfigError, match="no column 'worker' for --judge"):
        read([path], Columns(judge="worker"))
    with pytest.raises(ConfigError, match="for --style length"):
        read([path], Columns(features=("length",)))
    with pytest.raises(DataError, match="no such file"):
        read([str(tmp_path / "nothing.csv")])
    (tmp_path / "broken.csv").write_text("model_a,model_b,winner\nx,y\n")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read([str(tmp_path / "broken.csv")])


@pytest.mark.parametrize("change", [{"left": ""}, {"right": "x"}, {"outcome": 2.0}, {"first": 2}, {"weight": -1.0}])
def test_battles_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Battle(**({"left": "x", "right": "y", "outcome": 1.0} | change))
